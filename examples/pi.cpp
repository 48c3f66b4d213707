// Estimate pi by throwing darts; the argument is the number of darts. The entrypoint compiles this file, on Linux.

// /// conda-script
// channels = ["conda-forge"]
// entrypoint = 'g++ -O2 -o "${CACHE}/pi" "${SCRIPT}" && "${CACHE}/pi"'
//
// [dependencies]
// gxx = "*"
// /// end-conda-script

#include <cstdlib>
#include <iostream>
#include <random>

int main(int argc, char** argv) {
    const long darts = argc > 1 ? std::atol(argv[1]) : 1'000'000;
    std::mt19937_64 generator(1);
    std::uniform_real_distribution<double> side(-1.0, 1.0);
    long hits = 0;
    for (long dart = 0; dart < darts; ++dart) {
        const double x = side(generator), y = side(generator);
        hits += x * x + y * y <= 1.0;
    }
    std::cout << "pi is about " << 4.0 * hits / darts << '\n';
}
