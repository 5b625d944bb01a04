/* Gate 2: the decoder's lengths against objdump's, over a kernel's .text and over random instructions. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "encode.h"
#include "engine/soft/cpuid.h"

#define SAMPLE_BYTES 32 /* an instruction in the first half, NOPs in the second: objdump finds its way back there */
#define SAMPLES 100000
#define MAX_SHOWN 10

static struct {
    struct soft_vm svm;
    uint64_t passed, failed, skipped;
} t;

/* Code that objdump was given: its bytes and the address of the first. */
struct span {
    const uint8_t *bytes;
    uint64_t address, size;
};

static void show(const struct span *s, uint64_t address, const char *text, unsigned theirs, const struct insn *insn)
{
    if (t.failed++ >= MAX_SHOWN)
        return;
    printf("at 0x%llx:", (unsigned long long)address);
    for (unsigned i = 0; i < INSN_MAX_LEN && address - s->address + i < s->size; i++)
        printf(" %02x", s->bytes[address - s->address + i]);
    printf(": objdump says %u bytes, %s; the decoder %u%s\n", theirs, text, insn->len,
           insn->mnemonic == ZYDIS_MNEMONIC_INVALID ? ", invalid" : "");
}

/* objdump shows prefixes by themselves where it does not see what follows as theirs; FWAIT it takes for one. */
static bool is_peculiar(const char *text)
{
    static const char *const words[] = {"data16", "addr32", "cs", "ds", "es", "ss", "fs", "gs", "fwait", "repz", "repnz", "lock"};
    const char *last = text;

    if (strstr(text, "(bad)") || strstr(text, ".byte"))
        return true;
    for (const char *p = text; *p; p++)
        if (p[0] == ' ' && p[1] && p[1] != ' ')
            last = p + 1;
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
        if (strncmp(last, words[i], strlen(words[i])) == 0 && strcspn(last, " ") == strlen(words[i]))
            return true;
    return strncmp(last, "rex", 3) == 0;
}

static void check(const struct span *s, uint64_t address, unsigned theirs, const char *text, bool random)
{
    uint64_t off = address - s->address;
    struct insn insn;

    if (off >= s->size || theirs == 0 || (random && is_peculiar(text)) || strstr(text, "(bad)")) {
        t.skipped++;
        return;
    }
    if (insn_decode(&t.svm, &insn, s->bytes + off, (unsigned)MIN(s->size - off, INSN_MAX_LEN), 64) != 0)
        insn.len = 0;
    if (random && insn.mnemonic == ZYDIS_MNEMONIC_INVALID)
        t.skipped++; /* objdump shows what no CPU takes */
    else if (insn.len == theirs)
        t.passed++;
    else
        show(s, address, text, theirs, &insn);
}

/* One line of objdump: "  address:\ttext". */
static bool parse_line(char *line, uint64_t *address, char **text)
{
    char *end;

    line += strspn(line, " ");
    errno = 0;
    *address = strtoull(line, &end, 16);
    if (end == line || errno || end[0] != ':' || end[1] != '\t')
        return false;
    *text = end + 2;
    (*text)[strcspn(*text, "\n")] = '\0';
    return true;
}

/* Runs objdump and checks each of its instructions: all of them, or the first of each sample. 0 or -1. */
static int compare(const struct span *s, const char *command, bool random)
{
    FILE *pipe = popen(command, "r");
    char line[512], before[512] = "", *text;
    uint64_t address, last = 0;

    if (!pipe)
        return -1;
    while (fgets(line, sizeof(line), pipe)) {
        if (!parse_line(line, &address, &text))
            continue;
        if (before[0] && address > last && (!random || last % SAMPLE_BYTES == 0))
            check(s, last, (unsigned)(address - last), before, random);
        last = address;
        snprintf(before, sizeof(before), "%s", text);
    }
    return pclose(pipe) == 0 ? 0 : -1;
}

/* --- a kernel --- */

static bool find_text(const uint8_t *file, uint64_t size, struct span *s)
{
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)file;

    if (size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0 || eh->e_shoff > size ||
        (size - eh->e_shoff) / sizeof(Elf64_Shdr) < eh->e_shnum || eh->e_shstrndx >= eh->e_shnum)
        return false;
    const Elf64_Shdr *sh = (const Elf64_Shdr *)(file + eh->e_shoff);
    for (unsigned i = 0; i < eh->e_shnum; i++) {
        uint64_t name = sh[eh->e_shstrndx].sh_offset + sh[i].sh_name;
        if (name + 6 > size || memcmp(file + name, ".text", 6) != 0 || sh[i].sh_offset + sh[i].sh_size > size)
            continue;
        *s = (struct span){file + sh[i].sh_offset, sh[i].sh_addr, sh[i].sh_size};
        return true;
    }
    return false;
}

static int check_kernel(const char *path)
{
    char command[4096];
    struct stat st;
    struct span s;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        fprintf(stderr, "decode_test: %s: %s\n", path, strerror(errno));
        return -1;
    }
    void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (file == MAP_FAILED || !find_text(file, (uint64_t)st.st_size, &s)) {
        fprintf(stderr, "decode_test: %s is no 64-bit ELF with a .text section: it must be the kernel, unpacked\n", path);
        return -1;
    }
    if (strchr(path, '\'')) {
        fprintf(stderr, "decode_test: a path without quotes is needed\n");
        return -1;
    }
    snprintf(command, sizeof(command), "objdump -d -z -w --no-show-raw-insn -j .text '%s'", path);
    int error = compare(&s, command, false);
    munmap(file, (size_t)st.st_size);
    return error;
}

/* --- random instructions --- */

static int check_random(uint64_t seed)
{
    char path[] = "/tmp/umbra-decode-XXXXXX", command[256];
    int fd = mkstemp(path), error = -1;
    uint8_t *bytes = malloc(SAMPLES * SAMPLE_BYTES);
    struct span s = {bytes, 0, SAMPLES * SAMPLE_BYTES};
    struct rng r;

    if (fd < 0 || !bytes)
        goto done;
    rng_start(&r, seed, 0);
    memset(bytes, 0x90, s.size);
    for (unsigned i = 0; i < SAMPLES; i++) {
        struct code c;
        random_code(&r, &c, 64);
        memcpy(bytes + i * SAMPLE_BYTES, c.bytes, INSN_MAX_LEN);
    }
    if (write(fd, bytes, s.size) != (ssize_t)s.size)
        goto done;
    snprintf(command, sizeof(command), "objdump -D -z -w --no-show-raw-insn -b binary -m i386:x86-64 -M intel64 '%s'", path);
    error = compare(&s, command, true);
done:
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    free(bytes);
    return error;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    struct err e;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: decode_test VMLINUX [SEED]\n");
        return 2;
    }
    t.svm.cpu_count = 1;
    if (soft_cpuid_init(&t.svm, &e) != 0) {
        fprintf(stderr, "decode_test: %s\n", e.text);
        return 1;
    }
    int error = check_kernel(argv[1]);
    uint64_t kernel = t.passed;
    if (!error && check_random(seed) != 0) {
        fprintf(stderr, "decode_test: objdump did not disassemble the random instructions\n");
        error = -1;
    }
    soft_cpuid_fini(&t.svm);
    if (!error && (kernel < 100000 || t.passed - kernel < SAMPLES / 10)) {
        printf("too few instructions compared: %llu of the kernel's, %llu random\n", (unsigned long long)kernel,
               (unsigned long long)(t.passed - kernel));
        error = -1;
    }
    if (t.failed)
        printf("random instructions were made with seed %llu\n", (unsigned long long)seed);
    t.failed += error != 0;
    if (t.skipped)
        printf("skip %llu byte sequences: objdump calls them no instruction, or the CPU does, or prefixes stand alone\n",
               (unsigned long long)t.skipped);
    printf("%llu passed, %llu failed, %llu skipped\n", (unsigned long long)t.passed, (unsigned long long)t.failed,
           (unsigned long long)t.skipped);
    return t.failed != 0;
}
