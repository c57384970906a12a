#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "block/nbd/proto.h"
#include "block/proto/libnbd.h"
#include "cmd/nbd/nbd.h"
#include "lib/base/base.h"

/* -L: what another server exports. */

struct export
{
    char *name, *description;
};

static void export_clear(gpointer p)
{
    struct export *e = p;
    g_free(e->name);
    g_free(e->description);
}

static int on_export(void *opaque, const char *name, const char *description)
{
    struct export e = {g_strdup(name), g_strdup(description)};
    g_array_append_val((GArray *)opaque, e);
    return 0;
}

static int on_context(void *opaque, const char *name)
{
    g_ptr_array_add(opaque, g_strdup(name));
    return 0;
}

/* The transmission flags that libnbd tells one by one. */
static unsigned flags_of(const struct libnbd *n, struct nbd_handle *h)
{
    const struct {
        int (*ask)(struct nbd_handle *h);
        unsigned flag;
    } all[] = {
        {n->is_read_only, NBD_FLAG_READ_ONLY},
        {n->can_flush, NBD_FLAG_SEND_FLUSH},
        {n->can_fua, NBD_FLAG_SEND_FUA},
        {n->is_rotational, NBD_FLAG_ROTATIONAL},
        {n->can_trim, NBD_FLAG_SEND_TRIM},
        {n->can_zero, NBD_FLAG_SEND_WRITE_ZEROES},
        {n->can_df, NBD_FLAG_SEND_DF},
        {n->can_multi_conn, NBD_FLAG_CAN_MULTI_CONN},
        {n->can_cache, NBD_FLAG_SEND_CACHE},
        {n->can_fast_zero, NBD_FLAG_SEND_FAST_ZERO},
    };
    unsigned flags = NBD_FLAG_HAS_FLAGS;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        flags |= all[i].ask(h) == 1 ? all[i].flag : 0;
    }
    return flags;
}

static void print_flags(unsigned flags)
{
    static const char *const names[] = {"readonly", "flush",  "fua",      "rotational",
                                        "trim",     "zeroes", "df",       "multi",
                                        "resize",   "cache",  "fast-zero"};
    printf("  flags: 0x%x (", flags);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (flags & (2u << i)) {
            printf(" %s", names[i]);
        }
    }
    printf(" )\n");
}

static void print_export(const struct libnbd *n, struct nbd_handle *h,
                         const struct export *e)
{
    static const struct {
        int which;
        const char *name;
    } sizes[] = {
        {LIBNBD_SIZE_MINIMUM, "min block"},
        {LIBNBD_SIZE_PREFERRED, "opt block"},
        {LIBNBD_SIZE_MAXIMUM, "max block"},
    };
    printf(" export: '%s'\n", e->name);
    if (n->set_export_name(h, e->name) < 0 || n->opt_info(h) < 0) {
        return;
    }
    char *description = n->get_export_description(h);
    const char *text = description ? description : e->description;
    if (text && *text) {
        printf("  description: %s\n", text);
    }
    free(description);
    printf("  size:  %" PRId64 "\n", n->get_size(h));
    print_flags(flags_of(n, h));
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        int64_t size = n->get_block_size(h, sizes[i].which);
        if (size > 0) {
            printf("  %s: %" PRId64 "\n", sizes[i].name, size);
        }
    }
    g_autoptr(GPtrArray) contexts = g_ptr_array_new_with_free_func(g_free);
    nbd_context_callback cb = {.callback = on_context, .user_data = contexts};
    if (n->opt_list_meta_context(h, cb) >= 0 && contexts->len > 0) {
        printf("  available meta contexts: %u\n", contexts->len);
        for (unsigned i = 0; i < contexts->len; i++) {
            printf("   %s\n", (const char *)contexts->pdata[i]);
        }
    }
}

static bool list(const struct nbd_args *a, const struct libnbd *n, struct nbd_handle *h,
                 GError **error)
{
    struct libnbd_server server = {
        .path = a->socket,
        .host = a->bind ? a->bind : "0.0.0.0",
        .port = a->port ? a->port : "10809",
        .tls_hostname = a->tls_hostname,
    };
    if (a->tls_creds &&
        !(server.tls_creds = secrets_get_object(a->secrets, a->tls_creds))) {
        return error_msg(error,
                         "Failed to get TLS creds: No TLS credentials with id '%s'",
                         a->tls_creds);
    }
    n->set_opt_mode(h, true);
    n->set_full_info(h, true);
    if (!libnbd_connect(n, h, &server, error)) {
        return false;
    }
    g_autoptr(GArray) exports = g_array_new(FALSE, FALSE, sizeof(struct export));
    g_array_set_clear_func(exports, export_clear);
    nbd_list_callback cb = {.callback = on_export, .user_data = exports};
    if (n->opt_list(h, cb) < 0) {
        return error_msg(error, "Failed to list exports: %s", n->get_error());
    }
    printf("exports available: %u\n", exports->len);
    for (unsigned i = 0; i < exports->len; i++) {
        print_export(n, h, &g_array_index(exports, struct export, i));
    }
    n->opt_abort(h);
    return true;
}

int nbd_list(const struct nbd_args *a)
{
    GError *error = NULL;
    const struct libnbd *n = libnbd_load(&error);
    struct nbd_handle *h = n ? n->create() : NULL;
    bool ok = h && list(a, n, h, &error);
    if (!ok) {
        nbd_report(a, "", error);
    }
    if (h) {
        n->close(h);
    }
    return ok ? 0 : 1;
}
