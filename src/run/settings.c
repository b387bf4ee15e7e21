/* SPDX-License-Identifier: Apache-2.0 */
#include "settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB 1048576ull

static bool number_read(const char *name, uint64_t *value, char *problem, size_t problem_bytes)
{
    const char *text = getenv(name);
    char *end = NULL;

    errno = 0;
    *value = text != NULL && text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (end != NULL && *end == '\0' && errno == 0)
        return true;
    (void)snprintf(problem, problem_bytes, "%s is \"%s\" and must be a number of bytes", name,
                   text != NULL ? text : "");
    return false;
}

static bool path_read(const char *name, char path[PATH_MAX], char *problem, size_t problem_bytes)
{
    const char *text = getenv(name);

    if (text == NULL)
        text = "";
    if (strlen(text) >= PATH_MAX) {
        (void)snprintf(problem, problem_bytes, "%s has %zu bytes, and the most is %d", name, strlen(text),
                       PATH_MAX - 1);
        return false;
    }
    memcpy(path, text, strlen(text) + 1);
    return true;
}

bool settings_read(struct settings *s, char *problem, size_t problem_bytes)
{
    const char *delivery = getenv(SETTING_DELIVERY), *json = getenv(SETTING_JSON);

    if (!number_read(SETTING_MEMORY, &s->memory_bytes, problem, problem_bytes) ||
        !number_read(SETTING_PAGE_FILE_BYTES, &s->page_file_bytes, problem, problem_bytes) ||
        !number_read(SETTING_THRESHOLD, &s->threshold_bytes, problem, problem_bytes) ||
        !number_read(SETTING_START, &s->start_bytes, problem, problem_bytes) ||
        !path_read(SETTING_PAGE_FOLDER, s->page_folder, problem, problem_bytes) ||
        !path_read(SETTING_REPORT, s->report, problem, problem_bytes))
        return false;
    s->delivery = delivery != NULL && strcmp(delivery, "signal") == 0 ? TIDE_DELIVERY_SIGNAL : TIDE_DELIVERY_THREADS;
    s->json = json != NULL && strcmp(json, "1") == 0;
    return true;
}

void settings_engine_config(const struct settings *s, struct engine_config *e)
{
    /* A page file starts small and grows with what the program commits, in steps that a disk takes in one go. */
    const uint64_t first = 64 * MIB, step = 64 * MIB;
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)snprintf(e->path, sizeof e->path, "%s/pagetide-run-%ld-%lld%09ld.pagefile", s->page_folder, (long)getpid(),
                   (long long)now.tv_sec, now.tv_nsec);
    e->page_file = (tide_page_file_config){
        .path = e->path,
        .minimum_bytes = s->page_file_bytes < first ? s->page_file_bytes : first,
        .maximum_bytes = s->page_file_bytes,
    };
    tide_config_init(&e->config);
    e->config.memory_bytes = s->memory_bytes;
    e->config.page_files = &e->page_file;
    e->config.page_file_count = 1;
    e->config.page_file_growth_pages = step / TIDE_PAGE_BYTES;
    e->config.memory_on_demand = true;
}

char *settings_size_print(char text[24], uint64_t bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB" };
    double value = (double)bytes;
    unsigned unit = 0;

    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    /* Whole numbers and tens of thousands need no fraction. */
    (void)snprintf(text, 24, value == (double)(uint64_t)value ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return text;
}
