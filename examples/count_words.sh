#!/usr/bin/env bash
# Print the ten most frequent words in the given files, or in standard input.

# conda execute
# env:
#  - bash >=4

set -euo pipefail

declare -A seen=()
while read -r -a words; do
    for word in "${words[@],,}"; do
        word=${word//[^a-z]/}
        [[ -z $word ]] || seen[$word]=$((${seen[$word]:-0} + 1))
    done
done < <(cat -- "$@")

for word in "${!seen[@]}"; do
    printf '%6d %s\n' "${seen[$word]}" "$word"
done | sort -k1,1nr -k2 | head -n 10
