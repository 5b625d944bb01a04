#!/bin/sh
# Writes docs/code-map.md: every file's first line, which says what it is.
cd "$(dirname "$0")/.." || exit 1
{
    echo "# Code map"
    echo
    echo "Made by \`tools/code-map.sh\` from the first line of each file."
    folder=
    git ls-files 'src/*.c' 'src/*.h' 'src/*.S' 'src/*.asl' 'guest/*.c' 'guest/*.S' 'tests/*.c' 'tests/*.py' 'tests/*.sh' 'tools/*' |
        LC_ALL=C sort | while read -r file; do
        # A .c speaks for its header; a header alone speaks for itself.
        case $file in
        *.h) [ ! -e "${file%.h}.c" ] || continue ;;
        esac
        if [ "$(dirname "$file")" != "$folder" ]; then
            folder=$(dirname "$file")
            printf '\n## %s\n\n' "$folder"
        fi
        line=$(sed -n '1{/^#!/n;s/^\/\* *//;s/ *\*\/$//;s/^# *//;s/^"""//;s/"""$//;p;q;}' "$file")
        printf -- '- `%s`: %s\n' "$(basename "$file")" "$line"
    done
} >"${1:-docs/code-map.md}"
