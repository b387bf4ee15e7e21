/*
 * Page files on disk: see page_file_impl.h for the rules.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/page_file_impl.h"

#include "base/assert.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Times that a path may change hands while it is being opened. */
enum { OPEN_ATTEMPTS = 16 };

/* Paths in messages are cut, so that the value and the limit after them are not. */
#define PATH_FORMAT "'%.90s'"

_Static_assert(sizeof(struct page_file_header) <= TIDE_PAGE_BYTES, "the header fits in slot 0");

/* ---- configuration ---------------------------------------------------------------------------------------------- */

tide_status page_file_check(const tide_page_file_config *config, unsigned index)
{
    const uint64_t minimum = config->minimum_bytes, maximum = config->maximum_bytes;

    if (config->path == NULL || config->path[0] == '\0')
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "page file %u has no path", index);
    if (config->path[strlen(config->path) - 1] == '/')
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "page file " PATH_FORMAT ": the path names a folder, not a file",
                         config->path);
    if (minimum % TIDE_PAGE_BYTES != 0 || maximum % TIDE_PAGE_BYTES != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "page file " PATH_FORMAT ": %s %" PRIu64 " is no multiple of the page size %u", config->path,
                         minimum % TIDE_PAGE_BYTES != 0 ? "minimum_bytes" : "maximum_bytes",
                         minimum % TIDE_PAGE_BYTES != 0 ? minimum : maximum, TIDE_PAGE_BYTES);
    if (minimum < 2 * TIDE_PAGE_BYTES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "page file " PATH_FORMAT ": minimum_bytes %" PRIu64 " is less than two pages, %u",
                         config->path, minimum, 2 * TIDE_PAGE_BYTES);
    if (maximum != 0 && maximum < minimum)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "page file " PATH_FORMAT ": maximum_bytes %" PRIu64 " is less than minimum_bytes %" PRIu64,
                         config->path, maximum, minimum);
    if (minimum > PAGE_FILE_MAXIMUM_BYTES || maximum > PAGE_FILE_MAXIMUM_BYTES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "page file " PATH_FORMAT ": %" PRIu64 " bytes are more than a page file can have, %" PRIu64,
                         config->path, maximum > minimum ? maximum : minimum, PAGE_FILE_MAXIMUM_BYTES);
    return TIDE_SUCCESS;
}

/* ---- whose file is it ------------------------------------------------------------------------------------------- */

static tide_status io_error(const struct page_file *file, const char *what, int error)
{
    return error_set(TIDE_IO_ERROR, error, 0, "page file " PATH_FORMAT ": %s: %s", file->path, what, strerror(error));
}

static tide_status foreign(const struct page_file *file, const char *what)
{
    return error_set(TIDE_OBJECT_NAME_COLLISION, 0, 0, "page file " PATH_FORMAT ": the path holds %s; it is left alone",
                     file->path, what);
}

/* Fills a page as slot 0. */
static void make_header(char page[TIDE_PAGE_BYTES], const tide_page_file_config *config)
{
    struct page_file_header header = {
        .version = PAGE_FILE_VERSION,
        .page_bytes = TIDE_PAGE_BYTES,
        .minimum_bytes = config->minimum_bytes,
        .maximum_bytes = config->maximum_bytes != 0 ? config->maximum_bytes : config->minimum_bytes,
        .pid = getpid(),
    };

    memcpy(header.magic, PAGE_FILE_MAGIC, sizeof header.magic);
    memset(page, 0, TIDE_PAGE_BYTES);
    memcpy(page, &header, sizeof header);
}

/* Tells what an existing file is by reading it: empty, a page file (then also whose), or foreign. */
static tide_status examine(struct page_file *file, int64_t *pid)
{
    struct page_file_header header;
    ssize_t got;

    *pid = 0;
    do
        got = pread(file->fd, &header, sizeof header, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return io_error(file, "the file that is there cannot be read", errno);
    if (got == 0) {
        file->origin = PAGE_FILE_EMPTY;
        return TIDE_SUCCESS;
    }
    if ((size_t)got < sizeof header || memcmp(header.magic, PAGE_FILE_MAGIC, sizeof header.magic) != 0)
        return foreign(file, "a file that is no page file");
    file->origin = PAGE_FILE_STALE;
    *pid = header.pid;
    return TIDE_SUCCESS;
}

/* Whether the path still names the file that is open. */
static bool still_named(const struct page_file *file)
{
    struct stat status;

    return fstatat(file->folder, file->name, &status, AT_SYMLINK_NOFOLLOW) == 0 && status.st_dev == file->device &&
           status.st_ino == file->inode;
}

/* Opens the file that is at the path, or creates one. *again: the path changed hands meanwhile. */
static tide_status open_or_create(struct page_file *file, bool *again)
{
    struct stat status;

    file->fd = openat(file->folder, file->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    file->origin = PAGE_FILE_CREATED;
    if (file->fd < 0) {
        if (errno != EEXIST)
            return io_error(file, "cannot be created", errno);
        /* What is there is looked at before it is opened: opening a device or a pipe can have effects. */
        if (fstatat(file->folder, file->name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
            *again = errno == ENOENT;
            return io_error(file, "cannot be examined", errno);
        }
        if (!S_ISREG(status.st_mode))
            return foreign(file, S_ISDIR(status.st_mode)   ? "a folder"
                                 : S_ISLNK(status.st_mode) ? "a symbolic link"
                                                           : "something that is no regular file");
        file->origin = PAGE_FILE_STALE; /* until examine() knows better */
        file->fd = openat(file->folder, file->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (file->fd < 0) {
            *again = errno == ENOENT;
            return io_error(file, "the file that is there cannot be opened", errno);
        }
    }
    if (fstat(file->fd, &status) != 0)
        return io_error(file, "cannot be examined", errno);
    file->device = status.st_dev;
    file->inode = status.st_ino;
    return TIDE_SUCCESS;
}

/* Takes the lock that makes the file ours. `pid` is what its header says, 0 if it has none. */
static tide_status lock_file(const struct page_file *file, int64_t pid)
{
    int result;

    do
        result = flock(file->fd, LOCK_EX | LOCK_NB);
    while (result != 0 && errno == EINTR);
    if (result == 0)
        return TIDE_SUCCESS;
    if (errno == EWOULDBLOCK && pid != 0)
        return error_set(TIDE_SHARING_VIOLATION, errno, 0,
                         "page file " PATH_FORMAT " belongs to the engine of process %" PRId64 ", which is open",
                         file->path, pid);
    if (errno == EWOULDBLOCK)
        return error_set(TIDE_SHARING_VIOLATION, errno, 0, "page file " PATH_FORMAT " is locked by another process",
                         file->path);
    const int error = errno;
    if (file->origin == PAGE_FILE_CREATED) /* no locks here, so no other engine can have it */
        (void)unlinkat(file->folder, file->name, 0);
    return io_error(file, "cannot be locked", error);
}

/* One attempt to open and lock. *again: another engine was quicker in a way that makes a new attempt worth while. */
static tide_status acquire_once(struct page_file *file, const struct page_file *const *others, unsigned other_count,
                                bool *again)
{
    int64_t pid = 0;
    tide_status status = open_or_create(file, again);

    if (status != TIDE_SUCCESS)
        return status;
    for (unsigned i = 0; i < other_count; i++)
        if (others[i]->device == file->device && others[i]->inode == file->inode)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                             "page file " PATH_FORMAT " is given twice, as files %u and %u", file->path, i,
                             other_count);
    /* Before the lock too: a foreign file is not even locked. */
    if (file->origin != PAGE_FILE_CREATED && (status = examine(file, &pid)) != TIDE_SUCCESS)
        return status;
    if ((status = lock_file(file, pid)) != TIDE_SUCCESS)
        return status;
    if (!still_named(file)) { /* its owner removed it before our lock */
        *again = true;
        return error_set(TIDE_SHARING_VIOLATION, 0, 0,
                         "page file " PATH_FORMAT " changed hands %u times while it was opened", file->path,
                         OPEN_ATTEMPTS);
    }
    return file->origin == PAGE_FILE_CREATED ? TIDE_SUCCESS : examine(file, &pid);
}

/* Opens and locks. On success the open file is the one at the path, and ours to overwrite. */
static tide_status acquire(struct page_file *file, const struct page_file *const *others, unsigned other_count)
{
    tide_status status;
    bool again;
    unsigned attempt = 0;

    do {
        if (file->fd >= 0)
            close(file->fd);
        file->fd = -1;
        again = false;
        status = acquire_once(file, others, other_count, &again);
    } while (again && ++attempt < OPEN_ATTEMPTS);
    return status;
}

/* ---- size, header, O_DIRECT ------------------------------------------------------------------------------------- */

static tide_status disk_full(const struct page_file *file, uint64_t bytes, int error)
{
    struct statvfs disk;

    if (fstatvfs(file->fd, &disk) != 0)
        return io_error(file, "its file system cannot be examined", errno);
    return error_set(TIDE_DISK_FULL, error, 0,
                     "page file " PATH_FORMAT " needs %" PRIu64 " bytes, its file system has %" PRIu64 " free: %s",
                     file->path, bytes, (uint64_t)disk.f_bavail * disk.f_frsize, strerror(error));
}

static bool is_disk_full(int error)
{
    return error == ENOSPC || error == EDQUOT || error == EFBIG;
}

/* Gives space back. If that fails the file is larger than it need be, and still one that the next engine takes over. */
static void cut_file(const struct page_file *file, off_t bytes)
{
    const int result = ftruncate(file->fd, bytes);
    (void)result;
}

/* Passing the limit of a process would raise SIGXFSZ. */
static tide_status process_limit_check(const struct page_file *file, uint64_t bytes)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur)
        return error_set(TIDE_DISK_FULL, EFBIG, 0,
                         "page file " PATH_FORMAT " needs %" PRIu64 " bytes, files of this process may have %" PRIu64
                         " (RLIMIT_FSIZE)",
                         file->path, bytes, (uint64_t)limit.rlim_cur);
    return TIDE_SUCCESS;
}

/* For file systems without fallocate(): whole pages of zeros, which O_DIRECT takes too. 0 or an errno. */
static int allocate_by_writing(const struct page_file *file, uint64_t from, uint64_t to)
{
    static const char zeros[16 * TIDE_PAGE_BYTES] __attribute__((aligned(TIDE_PAGE_BYTES)));

    while (from < to) {
        const size_t bytes = to - from < sizeof zeros ? (size_t)(to - from) : sizeof zeros;
        const ssize_t written = pwrite(file->fd, zeros, bytes, (off_t)from);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < TIDE_PAGE_BYTES)
            return written < 0 ? errno : ENOSPC;
        from += (uint64_t)written / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES;
    }
    return 0;
}

tide_status page_file_grow(struct page_file *file, uint64_t bytes)
{
    const uint64_t old = file->bytes;
    tide_status status = process_limit_check(file, bytes);
    struct statvfs disk;
    int error;

    ASSERT_ALWAYS(bytes >= old);
    if (status != TIDE_SUCCESS)
        return status;
    /* Asked first where the file system knows, so that a disk is not filled to the brim in vain. */
    if (fstatvfs(file->fd, &disk) == 0 && disk.f_blocks != 0 && (uint64_t)disk.f_bfree * disk.f_frsize < bytes - old)
        return disk_full(file, bytes, ENOSPC);
    do
        error = fallocate(file->fd, 0, (off_t)old, (off_t)(bytes - old)) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == EOPNOTSUPP || error == ENOSYS)
        error = allocate_by_writing(file, old, bytes);
    if (error != 0) {
        cut_file(file, (off_t)old); /* what was allocated is free again, and counted so in the message */
        return is_disk_full(error) ? disk_full(file, bytes, error) : io_error(file, "cannot be sized", error);
    }
    file->bytes = bytes;
    return TIDE_SUCCESS;
}

void page_file_shrink(struct page_file *file, uint64_t bytes)
{
    cut_file(file, (off_t)bytes);
    file->bytes = bytes;
}

/*
 * Writes the header and gives the file its size. The content of a stale file is dropped first, and with it its space.
 */
static tide_status size_file(struct page_file *file, const char header[TIDE_PAGE_BYTES], uint64_t bytes)
{
    tide_status status = process_limit_check(file, bytes);
    ssize_t written;
    int error;

    if (status != TIDE_SUCCESS)
        return status;
    do
        written = pwrite(file->fd, header, TIDE_PAGE_BYTES, 0);
    while (written < 0 && errno == EINTR);
    error = written < 0 ? errno : ENOSPC;
    if (written != TIDE_PAGE_BYTES)
        return is_disk_full(error) ? disk_full(file, bytes, error)
                                   : io_error(file, "the header cannot be written", error);
    if (ftruncate(file->fd, TIDE_PAGE_BYTES) != 0)
        return io_error(file, "cannot be sized", errno);
    file->bytes = TIDE_PAGE_BYTES;
    return page_file_grow(file, bytes);
}

/* A wish: otherwise a read beside writes changes the time of access in the inode, and can wait for the journal. */
static void set_no_access_time(const struct page_file *file)
{
    const int flags = fcntl(file->fd, F_GETFL);

    if (flags >= 0)
        (void)fcntl(file->fd, F_SETFL, flags | O_NOATIME);
}

/*
 * Switches to O_DIRECT if the file system takes it. It may refuse the flag, or refuse I/O of one page only once it is
 * tried: a device with larger blocks. The trial reads the header back.
 */
static tide_status set_direct(struct page_file *file, const char header[TIDE_PAGE_BYTES])
{
    char page[TIDE_PAGE_BYTES] __attribute__((aligned(TIDE_PAGE_BYTES)));
    const int flags = fcntl(file->fd, F_GETFL);
    ssize_t got;

    if (flags < 0 || fcntl(file->fd, F_SETFL, flags | O_DIRECT) != 0)
        return TIDE_SUCCESS;
    do
        got = pread(file->fd, page, sizeof page, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EINVAL) {
        if (fcntl(file->fd, F_SETFL, flags) != 0)
            return io_error(file, "O_DIRECT cannot be switched off", errno);
        return TIDE_SUCCESS;
    }
    if (got != (ssize_t)sizeof page || memcmp(page, header, sizeof page) != 0)
        return io_error(file, "the header cannot be read back", got < 0 ? errno : EIO);
    file->direct = true;
    return TIDE_SUCCESS;
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

/* Splits the path, and opens its folder. */
static tide_status open_folder(struct page_file *file, const char *path)
{
    const char *const slash = strrchr(path, '/');
    const char *const name = slash != NULL ? slash + 1 : path;
    char *folder;

    file->path = strdup(path);
    file->name = strdup(name);
    folder = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (file->path == NULL || file->name == NULL || folder == NULL) {
        free(folder);
        return error_set(TIDE_INSUFFICIENT_RESOURCES, ENOMEM, 0, "no memory to open page file " PATH_FORMAT, path);
    }
    file->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    const int error = errno;
    free(folder);
    return file->folder >= 0 ? TIDE_SUCCESS : io_error(file, "its folder cannot be opened", error);
}

static void close_file(struct page_file *file)
{
    if (file->fd >= 0)
        close(file->fd); /* drops the lock */
    if (file->folder >= 0)
        close(file->folder);
    free(file->name);
    free(file->path);
}

tide_status page_file_open(struct page_file *file, const tide_page_file_config *config,
                           const struct page_file *const *others, unsigned other_count, bool disable_direct_io)
{
    char header[TIDE_PAGE_BYTES];
    tide_status status;

    *file = (struct page_file){ .fd = -1, .folder = -1 };
    file->maximum_bytes = config->maximum_bytes != 0 ? config->maximum_bytes : config->minimum_bytes;
    status = open_folder(file, config->path);
    if (status == TIDE_SUCCESS)
        status = acquire(file, others, other_count);
    if (status != TIDE_SUCCESS) {
        close_file(file);
        return status;
    }
    set_no_access_time(file);
    make_header(header, config);
    status = size_file(file, header, config->minimum_bytes);
    if (status == TIDE_SUCCESS && !disable_direct_io)
        status = set_direct(file, header);
    if (status != TIDE_SUCCESS)
        page_file_abandon(file);
    return status;
}

void page_file_remove(struct page_file *file)
{
    if (still_named(file))
        (void)unlinkat(file->folder, file->name, 0);
    close_file(file);
}

void page_file_abandon(struct page_file *file)
{
    if (file->origin == PAGE_FILE_CREATED) {
        page_file_remove(file);
        return;
    }
    /* A stale file stays one: a header. */
    cut_file(file, file->origin == PAGE_FILE_EMPTY ? 0 : TIDE_PAGE_BYTES);
    close_file(file);
}
