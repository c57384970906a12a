#include "vmm/control/fw_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/base.h"
#include "vmm/board/board.h"
#include "vmm/dev/pc/fw_cfg.h"

static const char *get(const json_t *options, const char *key)
{
    return json_string_value(json_object_get(options, key));
}

/* A file of at most FW_FILE_MAX bytes; also one whose size is known at its end only. */
static bool read_file(const char *path, struct board_fw_file *f, GError **error)
{
    g_autoptr(GByteArray) all = g_byte_array_new();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t buf[65536];
    ssize_t n = fd < 0 ? -1 : 1;

    while (n > 0 && all->len <= FW_FILE_MAX) {
        n = read(fd, buf, sizeof(buf));
        if (n > 0)
            g_byte_array_append(all, buf, n);
        if (n < 0 && errno == EINTR)
            n = 1;
    }
    if (n < 0)
        error_errno(error, errno, "%s", path);
    else if (all->len > FW_FILE_MAX)
        error_msg(error, "%s: more than %u MiB", path, (unsigned)(FW_FILE_MAX / MIB));
    if (fd >= 0)
        close(fd);
    if (n < 0 || all->len > FW_FILE_MAX)
        return false;
    f->len = all->len;
    f->bytes = g_memdup2(all->data, all->len);
    return true;
}

static bool make_file(const struct vmm_item *item, struct board_fw_file *f,
                      GError **error)
{
    const char *name = get(item->options, "name"), *file = get(item->options, "file");
    const char *string = get(item->options, "string");

    if (!name || !*name)
        return error_msg(error, "'name' is missing");
    if (strlen(name) > FW_CFG_NAME_MAX)
        return error_msg(error, "the name has more than %d bytes", FW_CFG_NAME_MAX);
    if (!file == !string)
        return error_msg(error, "needs 'file' or 'string', one of them");
    if (!g_str_has_prefix(name, "opt/"))
        fprintf(stderr,
                "lodge-vmm: warning: %s: names that begin with 'opt/' are the user's\n",
                item->where);
    if (file && !read_file(file, f, error))
        return false;
    if (string) {
        f->len = strlen(string);
        f->bytes = g_memdup2(string, f->len);
    }
    f->name = g_strdup(name);
    return true;
}

static void clear(gpointer p)
{
    struct board_fw_file *f = p;

    g_free(f->name);
    g_free(f->bytes);
}

GArray *fw_files_new(const struct vmm_config *c, GError **error)
{
    GArray *files = g_array_new(FALSE, TRUE, sizeof(struct board_fw_file));

    g_array_set_clear_func(files, clear);
    for (guint i = 0; i < c->fw_files->len; i++) {
        const struct vmm_item *item = c->fw_files->pdata[i];
        struct board_fw_file f = {0};

        if (!make_file(item, &f, error)) {
            g_prefix_error(error, "%s: ", item->where);
            g_array_unref(files);
            return NULL;
        }
        g_array_append_val(files, f);
    }
    return files;
}
