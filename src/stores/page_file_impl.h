/*
 * A page file on disk: created, locked, sized, and removed.
 *
 * Ownership is a lock on the open file (flock), which the kernel drops when the process dies. The header in slot 0 says
 * that a file is a page file and whose; together they tell what may be done with a path that exists:
 *   locked, with a header     a living engine's: refused
 *   not locked, with a header left by a dead engine: taken over
 *   empty                     taken
 *   anything else             not ours: refused, and neither written, locked nor removed
 * The header is written before the file gets its size, so an engine that dies in between leaves nothing that the next
 * one would refuse.
 *
 * A file is removed only by the engine that holds its lock, and only while the path still names that file. The folder
 * is held open, so that a change of the working directory, or a renamed folder, does not lead to another file.
 *
 * Space is really allocated: a full disk is found at creation, or when the file is to grow, and not by the
 * modified-page writer. I/O is O_DIRECT
 * where the file system can; whether it can is tried on the header.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STORES_PAGE_FILE_IMPL_H
#define STORES_PAGE_FILE_IMPL_H

#include <pagetide/engine.h>

#include <sys/types.h>

#define PAGE_FILE_MAXIMUM_BYTES ((uint64_t)TIDE_PAGE_BYTES << 32) /* slot numbers have 32 bits */

/* Bytes that no text file has, so that no file which somebody wrote is taken for a page file. */
#define PAGE_FILE_MAGIC "PAGETIDE\r\n\032\n\0\0\0\0"

/* What slot 0 holds, in the byte order of the machine; the rest of the page is zero. */
struct page_file_header {
    char magic[16]; /* PAGE_FILE_MAGIC without its end */
    uint32_t version;
    uint32_t page_bytes;
    uint64_t minimum_bytes;
    uint64_t maximum_bytes;
    int64_t pid; /* of the engine that owns or owned it */
};
enum { PAGE_FILE_VERSION = 1 };

/* What the path held before. */
enum page_file_origin {
    PAGE_FILE_CREATED, /* nothing */
    PAGE_FILE_EMPTY,   /* an empty file */
    PAGE_FILE_STALE,   /* the page file of a dead engine */
};

/* All [I], but for the size. */
struct page_file {
    int fd;
    int folder; /* the folder, for removal by name */
    char *name; /* inside the folder */
    char *path; /* as configured, for messages */
    dev_t device;
    ino_t inode;
    enum page_file_origin origin;
    bool direct;    /* O_DIRECT is on */
    uint64_t bytes; /* size now; changed by the one thread that grows and shrinks */
    uint64_t maximum_bytes;
};

/* Whether a configuration can be, without a look at the disk. TIDE_INVALID_PARAMETER. */
TIDE_MUST_CHECK tide_status page_file_check(const tide_page_file_config *config, unsigned index);

/*
 * Opens and locks config->path, and makes it a page file of minimum_bytes. `others` are the page files that the same
 * engine opened before; the same file twice is TIDE_INVALID_PARAMETER. Errors as stores_create(). On failure the path
 * holds what it held before; a dead engine's page file may have lost its content.
 */
TIDE_MUST_CHECK tide_status page_file_open(struct page_file *file, const tide_page_file_config *config,
                                           const struct page_file *const *others, unsigned other_count,
                                           bool disable_direct_io);
/*
 * Gives the file so many bytes (more than it has, at most its maximum), really allocated. TIDE_DISK_FULL,
 * TIDE_IO_ERROR; then it has the size it had. Reads and writes of what there is may go on meanwhile, as in
 * page_file_shrink().
 */
TIDE_MUST_CHECK tide_status page_file_grow(struct page_file *file, uint64_t bytes);
/* Cuts the file. If the file system does not let it, the file stays larger than it need be. */
void page_file_shrink(struct page_file *file, uint64_t bytes);
/* Closes and removes. */
void page_file_remove(struct page_file *file);
/* Closes and undoes the opening: what was not there before is removed, an empty file is empty again. */
void page_file_abandon(struct page_file *file);

#endif
