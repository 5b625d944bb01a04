#!/bin/sh
# Writes docs/code-map.md, or the file named: every file's first line, which says what it is.
cd "$(dirname "$0")/.." || exit 1
# New files that are not yet committed count too; removed ones do not. A .c speaks for its header; a header alone speaks for itself.
git ls-files --cached --others --exclude-standard 'src/*.c' 'src/*.h' 'src/*.S' 'src/*.asl' 'guest/*.c' 'guest/*.S' 'guest/*.inc' \
    'tests/*.c' 'tests/*.h' 'tests/*.py' 'tests/*.sh' 'tests/run' 'tests/gates/run' 'tools/*' |
    LC_ALL=C sort -u | while read -r file; do
    case $file in
    *.h) [ ! -e "${file%.h}.c" ] || continue ;;
    esac
    [ ! -e "$file" ] || echo "$file"
done | xargs awk '
    BEGIN { print "# Code map\n\nMade by `tools/code-map.sh` from the first line of each file." }
    FNR == 1 { told = 0 }
    told || /^#!/ { next }
    {
        told = 1
        line = $0
        sub(/^(\/\* *|# *|""")/, "", line)
        sub(/ *(\*\/|""")$/, "", line)
        name = folder = FILENAME
        sub(/.*\//, "", name)
        sub(/\/[^\/]*$/, "", folder)
        if (folder != last) {
            printf "\n## %s\n\n", folder
            last = folder
        }
        printf "- `%s`: %s\n", name, line
    }
' >"${1:-docs/code-map.md}"
