/*
 * pagetide: the command. Its one subcommand, run, starts a program with the preload library.
 *
 * Everything that can be known beforehand is checked here, where a message reaches the user: the options, the program,
 * and whether an engine of this size and a mapped space can be had, by opening them once. Then the program takes the
 * place of this process: signals, status and terminal are its own.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "settings.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* As env(1) and timeout(1) have them. */
enum { EXIT_FAILED = 125, EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127 };

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

/* Limits of the options. */
#define MEMORY_LEAST (4 * MIB)
#define MEMORY_MOST (16 * TIB)
#define PAGE_FILE_LEAST (1 * MIB)
#define THRESHOLD_LEAST (64 * KIB)
#define THRESHOLD_MOST (1 * GIB)
#define START_MOST (1 * GIB)

static void usage(FILE *to)
{
    fputs(
        "usage: pagetide run --memory SIZE [option]... [--] PROGRAM [argument]...\n"
        "       pagetide --help | --version\n"
        "\n"
        "Runs an unmodified program with its memory in a mapped space of pagetide: what it allocates beyond the "
        "budget\n"
        "goes to a page file. At its end, a table on standard error says what happened.\n"
        "\n"
        "  -m, --memory SIZE         the budget of each process; from 4M\n"
        "      --page-folder FOLDER  where page files are made, without a name that stays; default $TMPDIR or "
        "/var/tmp\n"
        "      --page-file-size SIZE what a page file may grow to; default: half of what is free in the folder\n"
        "      --threshold SIZE      blocks and mappings from here on get pages of their own; default 256K\n"
        "      --start SIZE          a process that never asks for more than this is left alone; default 4M\n"
        "      --delivery threads    faults are resolved by threads of the engine (default). Needs root, "
        "CAP_SYS_PTRACE,\n"
        "                            access to /dev/userfaultfd, or vm.unprivileged_userfaultfd = 1\n"
        "      --delivery signal     by the faulting thread: quicker and for everyone, but system calls on memory "
        "that\n"
        "                            is in the page file fail with EFAULT: for programs that are known to bear it\n"
        "      --report FILE         the table goes to the end of FILE\n"
        "      --json                one line of JSON instead of the table\n"
        "  -h, --help                this text\n"
        "\n"
        "SIZE is a number of bytes, or with K, M, G or T behind it of KiB, MiB, GiB or TiB.\n"
        "\n"
        "Captured are blocks of malloc() and its family, and private anonymous mmap(). Programs that PROGRAM starts "
        "run\n"
        "in the same way, each with a budget, an engine and a table of its own. Not captured: memory of files, shared\n"
        "memory, stacks, programs that are linked statically or change their user when they start (set-user-ID). "
        "There\n"
        "is no table of a process that a signal kills or that executes another program. docs/run.md says more.\n"
        "\n"
        "Exit status: that of PROGRAM; 125 if pagetide fails, 126 if PROGRAM cannot be executed, 127 if there is "
        "none.\n",
        to);
}

__attribute__((format(printf, 2, 3))) static _Noreturn void fail(int status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("pagetide: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(status);
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static uint64_t size_parse(const char *option, const char *text, uint64_t least, uint64_t most)
{
    static const char units[] = "KMGT";
    char least_text[24], most_text[24], *end = NULL;

    errno = 0;
    unsigned long long value = text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    bool valid = end != NULL && errno == 0;
    if (valid && *end != '\0') {
        const char *const unit = strchr(units, *end >= 'a' && *end <= 'z' ? *end - 'a' + 'A' : *end);
        const bool suffix = end[1] == '\0' || strcmp(end + 1, "iB") == 0;
        const unsigned shift = unit != NULL ? 10 * (unsigned)(unit - units + 1) : 0;
        valid = unit != NULL && suffix && value <= UINT64_MAX >> shift;
        value = valid ? value << shift : 0;
    }
    if (!valid)
        fail(EXIT_FAILED, "%s wants a size such as 65536, 640K, 64M or 2G and got \"%s\"", option, text);
    if (value < least || value > most)
        fail(EXIT_FAILED, "%s wants a size from %s to %s and got \"%s\"", option,
             settings_size_print(least_text, least), settings_size_print(most_text, most), text);
    return value / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES;
}

static void path_set(const char *option, char path[PATH_MAX], const char *text)
{
    if (text[0] == '\0' || strlen(text) >= PATH_MAX)
        fail(EXIT_FAILED, "%s wants a path of 1 to %d bytes and got one of %zu", option, PATH_MAX - 1, strlen(text));
    memcpy(path, text, strlen(text) + 1);
}

/* Fills in the settings, and leaves optind at the program. */
static void options_parse(int argc, char **argv, struct settings *s)
{
    enum { PAGE_FOLDER = 256, PAGE_FILE_SIZE, THRESHOLD, START, DELIVERY, REPORT, JSON };
    static const struct option long_options[] = {
        { "memory", required_argument, NULL, 'm' },
        { "page-folder", required_argument, NULL, PAGE_FOLDER },
        { "page-file-size", required_argument, NULL, PAGE_FILE_SIZE },
        { "threshold", required_argument, NULL, THRESHOLD },
        { "start", required_argument, NULL, START },
        { "delivery", required_argument, NULL, DELIVERY },
        { "report", required_argument, NULL, REPORT },
        { "json", no_argument, NULL, JSON },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, "+:m:h", long_options, NULL)) != -1) {
        switch (option) {
        case 'm':
            s->memory_bytes = size_parse("--memory", optarg, MEMORY_LEAST, MEMORY_MOST);
            break;
        case PAGE_FOLDER:
            path_set("--page-folder", s->page_folder, optarg);
            break;
        case PAGE_FILE_SIZE:
            s->page_file_bytes = size_parse("--page-file-size", optarg, PAGE_FILE_LEAST, MEMORY_MOST);
            break;
        case THRESHOLD:
            s->threshold_bytes = size_parse("--threshold", optarg, THRESHOLD_LEAST, THRESHOLD_MOST);
            break;
        case START:
            s->start_bytes = size_parse("--start", optarg, 0, START_MOST);
            break;
        case DELIVERY:
            if (strcmp(optarg, "threads") != 0 && strcmp(optarg, "signal") != 0)
                fail(EXIT_FAILED, "--delivery is threads or signal and got \"%s\"", optarg);
            s->delivery = strcmp(optarg, "signal") == 0 ? TIDE_DELIVERY_SIGNAL : TIDE_DELIVERY_THREADS;
            break;
        case REPORT:
            path_set("--report", s->report, optarg);
            break;
        case JSON:
            s->json = true;
            break;
        case 'h':
            usage(stdout);
            exit(EXIT_SUCCESS);
        case ':':
            fail(EXIT_FAILED, "%s wants a value; see pagetide --help", argv[optind - 1]);
        default:
            if (optopt != 0 && optopt < 256)
                fail(EXIT_FAILED, "there is no option -%c; see pagetide --help", optopt);
            fail(EXIT_FAILED, "there is no option %s, or it takes no value; see pagetide --help", argv[optind - 1]);
        }
    }
    if (s->memory_bytes == 0)
        fail(EXIT_FAILED, "--memory must be given; see pagetide --help");
    if (optind == argc)
        fail(EXIT_FAILED, "no program is given; see pagetide --help");
}

/* ---- what can be known beforehand -------------------------------------------------------------------------------- */

/* An absolute path, so that the program may change its folder. */
static void path_complete(const char *option, char path[PATH_MAX])
{
    char folder[PATH_MAX], whole[2 * PATH_MAX];

    if (path[0] == '/')
        return;
    if (getcwd(folder, sizeof folder) == NULL)
        fail(EXIT_FAILED, "%s %s: the current folder has no path: %s", option, path, strerror(errno));
    if (snprintf(whole, sizeof whole, "%s/%s", folder, path) >= PATH_MAX)
        fail(EXIT_FAILED, "%s %s: the whole path has more than %d bytes", option, path, PATH_MAX - 1);
    memcpy(path, whole, strlen(whole) + 1);
}

static void page_folder_check(struct settings *s)
{
    const char *const temporary = getenv("TMPDIR");
    struct statvfs file_system;
    struct stat status;

    if (s->page_folder[0] == '\0')
        path_set("TMPDIR", s->page_folder, temporary != NULL && temporary[0] != '\0' ? temporary : "/var/tmp");
    path_complete("--page-folder", s->page_folder);
    if (stat(s->page_folder, &status) != 0 || !S_ISDIR(status.st_mode) || access(s->page_folder, W_OK | X_OK) != 0)
        fail(EXIT_FAILED, "no page file can be made in %s: %s", s->page_folder,
             errno != 0 && !S_ISDIR(status.st_mode) ? strerror(errno) : "no folder, or no right to write there");
    if (s->page_file_bytes != 0)
        return;
    if (statvfs(s->page_folder, &file_system) != 0)
        fail(EXIT_FAILED, "cannot ask how much is free in %s: %s; say it with --page-file-size", s->page_folder,
             strerror(errno));
    const uint64_t half = (uint64_t)file_system.f_bavail * file_system.f_frsize / 2 / MIB * MIB;
    s->page_file_bytes = half < PAGE_FILE_LEAST ? PAGE_FILE_LEAST : half > MEMORY_MOST ? MEMORY_MOST : half;
}

static void report_check(struct settings *s)
{
    if (s->report[0] == '\0')
        return;
    path_complete("--report", s->report);
    const int file = open(s->report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0)
        fail(EXIT_FAILED, "--report %s: %s", s->report, strerror(errno));
    (void)close(file);
}

/* Opens and closes what each process will need. */
static void engine_check(const struct settings *s)
{
    static struct engine_config engine;
    tide_mapped_options options;
    tide_engine *opened;
    tide_space *space;

    if (tide_failed(tide_mapped_check(s->delivery)))
        fail(EXIT_FAILED, "%s%s", tide_last_error()->message,
             s->delivery == TIDE_DELIVERY_THREADS
                 ? " (--delivery signal needs no privilege; see pagetide --help for what it "
                   "asks of the program)"
                 : "");
    settings_engine_config(s, &engine);
    if (tide_failed(tide_engine_open(&engine.config, &opened)))
        fail(EXIT_FAILED, "%s", tide_last_error()->message);
    tide_mapped_options_init(&options);
    options.delivery = s->delivery;
    const tide_status status = tide_mapped_space_create(opened, &options, &space);
    const tide_error error = *tide_last_error();
    if (!tide_failed(status))
        (void)tide_space_destroy(space);
    (void)tide_engine_close(opened);
    if (tide_failed(status))
        fail(EXIT_FAILED, "%s", error.message);
}

/* The file that execvp() will find, or nothing if it is none that can be read. */
static int program_open(const char *name)
{
    const char *path = getenv("PATH");
    char file[2 * PATH_MAX];

    if (strchr(name, '/') != NULL)
        return open(name, O_RDONLY | O_CLOEXEC);
    for (path = path != NULL ? path : "/bin:/usr/bin"; *path != '\0'; path += strspn(path, ":")) {
        const size_t length = strcspn(path, ":");
        if (snprintf(file, sizeof file, "%.*s/%s", (int)length, path, name) < (int)sizeof file &&
            access(file, X_OK) == 0)
            return open(file, O_RDONLY | O_CLOEXEC);
        path += length;
    }
    return -1;
}

/* Programs that would run without the preload library are refused: the user would believe them to be in the budget. */
static void program_check(const char *name)
{
    const int file = program_open(name);
    struct stat status;
    Elf64_Ehdr header;
    bool interpreter = false;

    if (file < 0)
        return; /* execvp() says why */
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
        (((status.st_mode & S_ISUID) != 0 && status.st_uid != getuid()) ||
         ((status.st_mode & S_ISGID) != 0 && status.st_gid != getgid())))
        fail(EXIT_FAILED, "%s changes its user or group when it starts, and such programs cannot be captured", name);
    const bool elf = pread(file, &header, sizeof header, 0) == (ssize_t)sizeof header &&
                     memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_ident[EI_CLASS] == ELFCLASS64 &&
                     header.e_phentsize == sizeof(Elf64_Phdr);
    for (unsigned i = 0; elf && i < header.e_phnum; i++) {
        Elf64_Phdr part;
        interpreter = interpreter || (pread(file, &part, sizeof part, (off_t)(header.e_phoff + i * sizeof part)) ==
                                          (ssize_t)sizeof part &&
                                      part.p_type == PT_INTERP);
    }
    if (elf && !interpreter)
        fail(EXIT_FAILED, "%s is linked statically, and such programs cannot be captured", name);
    (void)close(file);
}

/* ---- starting ---------------------------------------------------------------------------------------------------- */

/* The preload library lies beside this program in a build, and in the library folder in an installation. */
static void preload_find(char path[PATH_MAX])
{
    static const char *const places[] = { "libpagetide-run.so", PAGETIDE_RUN_INSTALLED };
    char folder[PATH_MAX], file[2 * PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);

    if (length <= 0)
        fail(EXIT_FAILED, "cannot find out where this program lies: /proc/self/exe: %s", strerror(errno));
    folder[length] = '\0';
    *strrchr(folder, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        (void)snprintf(file, sizeof file, "%s/%s", folder, places[i]);
        if (access(file, R_OK) != 0 || realpath(file, path) == NULL)
            continue;
        if (strpbrk(path, " :") != NULL)
            fail(EXIT_FAILED, "the loader takes no library whose path has a space or a colon: \"%s\"", path);
        return;
    }
    fail(EXIT_FAILED, "libpagetide-run.so is not beside this program and not in %s/%s", folder, places[1]);
}

static void set(const char *name, const char *value)
{
    if (setenv(name, value, 1) != 0)
        fail(EXIT_FAILED, "the environment cannot take %s: %s", name, strerror(errno));
}

static void set_number(const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, value);
    set(name, text);
}

static void environment_set(const struct settings *s, const char *preload)
{
    const char *const others = getenv("LD_PRELOAD");
    char *list;

    set_number(SETTING_MEMORY, s->memory_bytes);
    set_number(SETTING_PAGE_FILE_BYTES, s->page_file_bytes);
    set_number(SETTING_THRESHOLD, s->threshold_bytes);
    set_number(SETTING_START, s->start_bytes);
    set(SETTING_PAGE_FOLDER, s->page_folder);
    set(SETTING_DELIVERY, s->delivery == TIDE_DELIVERY_SIGNAL ? "signal" : "threads");
    set(SETTING_REPORT, s->report);
    set(SETTING_JSON, s->json ? "1" : "0");
    if (asprintf(&list, "%s%s%s", preload, others != NULL && others[0] != '\0' ? ":" : "",
                 others != NULL ? others : "") < 0)
        fail(EXIT_FAILED, "no memory for the environment");
    set("LD_PRELOAD", list);
    free(list);
}

static int run_command(int argc, char **argv)
{
    static struct settings settings = { .threshold_bytes = 256 * KIB,
                                        .start_bytes = 4 * MIB,
                                        .delivery = TIDE_DELIVERY_THREADS };
    char preload[PATH_MAX];

    options_parse(argc, argv, &settings);
    char **const program = argv + optind;
    program_check(program[0]);
    preload_find(preload);
    page_folder_check(&settings);
    report_check(&settings);
    engine_check(&settings);
    environment_set(&settings, preload);
    (void)execvp(program[0], program);
    fail(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE, "%s: %s", program[0], strerror(errno));
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return EXIT_FAILED;
    }
    if (strcmp(argv[1], "run") == 0)
        return run_command(argc - 1, argv + 1);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return EXIT_SUCCESS;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("pagetide " PAGETIDE_VERSION);
        return EXIT_SUCCESS;
    }
    fail(EXIT_FAILED, "there is no command \"%s\"; see pagetide --help", argv[1]);
}
