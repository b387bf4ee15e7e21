/*
 * What the kernel says. See host.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host.h"

#include <dirent.h>
#include <errno.h>
#include <linux/mempolicy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HOST_PAGE_BYTES = 4096 };

/* ---- sysfs ------------------------------------------------------------------------------------------------------ */

/* The text of a small file; false if there is none. */
static bool file_text(const char *path, char *text, size_t bytes)
{
    FILE *file = fopen(path, "re");

    if (file == NULL)
        return false;
    const size_t got = fread(text, 1, bytes - 1, file);
    text[got] = '\0';
    fclose(file);
    return true;
}

static bool node_text(unsigned node, const char *name, char *text, size_t bytes)
{
    char path[96];

    snprintf(path, sizeof path, "/sys/devices/system/node/node%u/%s", node, name);
    return file_text(path, text, bytes);
}

/* "0-1,4" */
static void cpus_parse(const char *text, struct host_node *node)
{
    CPU_ZERO(&node->cpus);
    while (*text >= '0' && *text <= '9') {
        char *end;
        const unsigned long first = strtoul(text, &end, 10);
        unsigned long last = first;

        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        for (unsigned long cpu = first; cpu <= last && cpu < CPU_SETSIZE; cpu++)
            CPU_SET(cpu, &node->cpus);
        text = *end == ',' ? end + 1 : end;
    }
    node->cpu_count = (unsigned)CPU_COUNT(&node->cpus);
}

/* A line of the node's meminfo in bytes, 0 if there is none. */
static uint64_t node_meminfo(unsigned node, const char *name)
{
    char text[8192];
    unsigned long long kib = 0;

    if (!node_text(node, "meminfo", text, sizeof text))
        return 0;
    const char *line = strstr(text, name);
    return line != NULL && sscanf(line + strlen(name), " %llu kB", &kib) == 1 ? kib * 1024 : 0;
}

bool host_read(struct host *host)
{
    char text[4096];

    memset(host, 0, sizeof *host);
    for (unsigned n = 0; n < HOST_NODES_MAX; n++) {
        struct host_node *node = &host->nodes[n];

        if (!node_text(n, "cpulist", text, sizeof text))
            continue;
        node->present = true;
        cpus_parse(text, node);
        node->memory_bytes = node_meminfo(n, "MemTotal:");
        host->end = n + 1;
        host->node_count++;
        host->cpu_count += node->cpu_count;
    }
    for (unsigned n = 0; n < host->end; n++) {
        char *at = text;

        if (!host->nodes[n].present)
            continue;
        if (!node_text(n, "distance", text, sizeof text)) {
            fprintf(stderr, "node %u has no distances\n", n);
            return false;
        }
        /* One number for each node that there is. */
        for (unsigned to = 0; to < host->end; to++)
            if (host->nodes[to].present)
                host->nodes[n].distance[to] = (unsigned)strtoul(at, &at, 10);
    }
    if (host->node_count == 0)
        fprintf(stderr, "the kernel knows no nodes\n");
    return host->node_count != 0;
}

int host_node_of_cpu(const struct host *host, unsigned cpu)
{
    for (unsigned n = 0; n < host->end; n++)
        if (host->nodes[n].present && CPU_ISSET(cpu, &host->nodes[n].cpus))
            return (int)n;
    return -1;
}

static unsigned nearest(const struct host *host, unsigned node, bool with_cpus)
{
    unsigned best = node, best_distance = UINT32_MAX;

    for (unsigned n = 0; n < host->end; n++) {
        const struct host_node *candidate = &host->nodes[n];
        const bool fits = candidate->present && (with_cpus ? candidate->cpu_count != 0 : candidate->memory_bytes != 0);
        if (fits && host->nodes[node].distance[n] < best_distance) {
            best = n;
            best_distance = host->nodes[node].distance[n];
        }
    }
    return best;
}

unsigned host_nearest_with_memory(const struct host *host, unsigned node)
{
    return nearest(host, node, false);
}

unsigned host_nearest_with_cpus(const struct host *host, unsigned node)
{
    return nearest(host, node, true);
}

uint64_t host_free_bytes(unsigned node)
{
    return node_meminfo(node, "MemFree:");
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

bool host_page_nodes(const void *first, size_t stride_bytes, size_t count, int *nodes)
{
    enum { AT_ONCE = 512 };
    void *pages[AT_ONCE];

    for (size_t done = 0; done < count;) {
        const size_t some = count - done < AT_ONCE ? count - done : AT_ONCE;

        for (size_t i = 0; i < some; i++)
            pages[i] = (char *)(uintptr_t)first + (done + i) * stride_bytes;
        if (syscall(SYS_move_pages, 0, some, pages, NULL, nodes + done, 0) != 0) {
            fprintf(stderr, "move_pages: %s\n", strerror(errno));
            return false;
        }
        for (size_t i = done; i < done + some; i++)
            if (nodes[i] == -ENOENT || nodes[i] == -EFAULT) /* not there; the kernel's page of zeros */
                nodes[i] = PLACE_NONE;
        done += some;
    }
    return true;
}

int host_page_node(const void *address)
{
    int node;

    return host_page_nodes(address, 0, 1, &node) ? node : -errno;
}

bool host_is_bound(const void *address, unsigned node)
{
    unsigned long mask[HOST_NODES_MAX / (8 * sizeof(unsigned long))] = { 0 };
    int mode = -1;

    return syscall(SYS_get_mempolicy, &mode, mask, (unsigned long)HOST_NODES_MAX + 1, address,
                   (unsigned long)MPOL_F_ADDR) == 0 &&
           mode == MPOL_BIND && mask[0] == 1ul << node;
}

bool host_range_tally(const void *memory, size_t bytes, unsigned node, struct host_tally *tally)
{
    const char *begin = (const char *)((uintptr_t)memory & ~(uintptr_t)(HOST_PAGE_BYTES - 1));
    const size_t pages = ((uintptr_t)memory + bytes - (uintptr_t)begin + HOST_PAGE_BYTES - 1) / HOST_PAGE_BYTES;
    int *nodes = calloc(pages == 0 ? 1 : pages, sizeof *nodes);
    const bool known = nodes != NULL && host_page_nodes(begin, HOST_PAGE_BYTES, pages, nodes);

    for (size_t i = 0; known && i < pages; i++) {
        const char *page = begin + i * HOST_PAGE_BYTES;

        if (nodes[i] == (int)node) {
            tally->there++;
        } else if (nodes[i] == PLACE_NONE && host_is_bound(page, node)) {
            tally->untouched++;
        } else {
            if (tally->elsewhere++ == 0) {
                tally->first_elsewhere = page;
                tally->first_node = nodes[i];
            }
        }
    }
    free(nodes);
    return known;
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

int host_thread_find(const char *name)
{
    DIR *folder = opendir("/proc/self/task");
    int found = 0;

    for (struct dirent *entry; folder != NULL && found == 0 && (entry = readdir(folder)) != NULL;) {
        char path[300], text[64];

        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        if (entry->d_name[0] == '.' || !file_text(path, text, sizeof text))
            continue;
        text[strcspn(text, "\n")] = '\0';
        if (strcmp(text, name) == 0)
            found = atoi(entry->d_name);
    }
    if (folder != NULL)
        closedir(folder);
    return found;
}

bool host_thread_cpus(int tid, cpu_set_t *cpus)
{
    CPU_ZERO(cpus);
    return sched_getaffinity(tid, sizeof *cpus, cpus) == 0;
}

int host_thread_last_cpu(int tid)
{
    char path[64], text[1024];

    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    if (!file_text(path, text, sizeof text))
        return -1;
    /* Field 39; the second may hold blanks and ends with the last bracket. */
    const char *at = strrchr(text, ')');
    for (int field = 2; at != NULL && field < 39; field++) {
        at = strchr(at, ' ');
        at = at == NULL ? NULL : at + 1;
    }
    return at == NULL ? -1 : atoi(at);
}

bool host_run_on_cpu(unsigned cpu)
{
    cpu_set_t cpus;

    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    return sched_setaffinity(0, sizeof cpus, &cpus) == 0;
}

bool host_run_on_node(const struct host *host, unsigned node)
{
    return sched_setaffinity(0, sizeof host->nodes[node].cpus, &host->nodes[node].cpus) == 0;
}
