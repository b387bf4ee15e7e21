/*
 * What `pagetide run` is told: the launcher checks it and hands it to the preload library in environment variables.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RUN_SETTINGS_H
#define RUN_SETTINGS_H

#include <pagetide/pagetide.h>

#include <limits.h>

/* Decimal numbers of bytes, words and paths. Without SETTING_MEMORY the preload library does nothing. */
#define SETTING_MEMORY "PAGETIDE_RUN_MEMORY"
#define SETTING_PAGE_FOLDER "PAGETIDE_RUN_PAGE_FOLDER"
#define SETTING_PAGE_FILE_BYTES "PAGETIDE_RUN_PAGE_FILE_BYTES"
#define SETTING_THRESHOLD "PAGETIDE_RUN_THRESHOLD"
#define SETTING_START "PAGETIDE_RUN_START"
#define SETTING_DELIVERY "PAGETIDE_RUN_DELIVERY" /* threads or signal */
#define SETTING_REPORT "PAGETIDE_RUN_REPORT"     /* a file; not set or empty: standard error */
#define SETTING_JSON "PAGETIDE_RUN_JSON"         /* 1: one line of JSON instead of a table */

struct settings {
    uint64_t memory_bytes;    /* the budget of each process */
    uint64_t page_file_bytes; /* size that the page file may grow to */
    uint64_t threshold_bytes; /* allocations from here on get pages of their own */
    uint64_t start_bytes;     /* a process that never asks for more is left alone */
    tide_delivery delivery;
    bool json;
    char page_folder[PATH_MAX];
    char report[PATH_MAX]; /* empty: standard error */
};

/* An engine's configuration and what it points to. Filled in place: not to be copied. */
struct engine_config {
    tide_config config;
    tide_page_file_config page_file;
    char path[PATH_MAX + 64];
};

/* Reads the environment. False, with a sentence in `problem`, if a variable is missing or makes no sense. */
bool settings_read(struct settings *settings, char *problem, size_t problem_bytes);

/* The engine that a process gets. Its page file is named after the process and the moment. */
void settings_engine_config(const struct settings *settings, struct engine_config *engine);

/* Bytes as people read them: "640 KiB", "1.5 GiB". Returns `text`. */
char *settings_size_print(char text[24], uint64_t bytes);

#endif
