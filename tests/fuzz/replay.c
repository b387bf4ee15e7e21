/*
 * Runs inputs of the fuzzer without it, under any compiler: each argument is a file, or a folder of files. What the
 * fuzzer found is repeated so, and the corpus is a test in every build.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PATH_BYTES = 4096, MOST_BYTES = 1 << 20 };

static unsigned done;

static int run_file(const char *path)
{
    static uint8_t input[MOST_BYTES];
    FILE *file = fopen(path, "rb");

    if (file == NULL) {
        perror(path);
        return 1;
    }
    const size_t size = fread(input, 1, sizeof input, file);
    fclose(file);
    fprintf(stderr, "%s: %zu bytes\n", path, size);
    (void)LLVMFuzzerTestOneInput(input, size);
    done++;
    return 0;
}

static int run_path(const char *path)
{
    DIR *folder = opendir(path);
    const struct dirent *entry;
    int failed = 0;

    if (folder == NULL)
        return run_file(path);
    while ((entry = readdir(folder)) != NULL) {
        char child[PATH_BYTES];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        failed |= run_file(child);
    }
    closedir(folder);
    return failed;
}

int main(int argc, char **argv)
{
    int failed = 0;

    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fprintf(stderr, "usage: fuzz_replay FILE|FOLDER...\n");
        return argc < 2 ? 2 : 0;
    }
    for (int i = 1; i < argc; i++)
        failed |= run_path(argv[i]);
    fprintf(stderr, "%u inputs, no difference\n", done);
    return failed || done == 0;
}
