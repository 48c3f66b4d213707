// Print the prime numbers below a limit (default: 50).

// /// conda-script
// channels = ["conda-forge"]
// entrypoint = 'node "${SCRIPT}"'
//
// [dependencies]
// nodejs = ">=16"
// /// end-conda-script

const limit = Number(process.argv[2] ?? 50);
const composite = new Set();
const primes = [];
for (let number = 2; number < limit; number += 1) {
  if (composite.has(number)) continue;
  primes.push(number);
  for (let multiple = number * number; multiple < limit; multiple += number) composite.add(multiple);
}
console.log(primes.join(" "));
