#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "block/crypto/luks_priv.h"
#include "lib/base/base.h"

/* Slots are added and erased, with the checks and the words of `qemu-img amend`. */

struct change {
    bool activate, has_slot, force;
    unsigned slot;
    GBytes *new_pass, *old_pass;
    uint64_t iter_ms;
    bool has_iter;
};

static const char *text_of(json_t *opts, const char *prefix, const char *name)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    return blk_opt_str(opts, key, NULL);
}

static bool number_of(json_t *opts, const char *prefix, const char *name, uint64_t *ret)
{
    g_autofree char *key = g_strconcat(prefix, name, NULL);
    *ret = blk_opt_u64(opts, key, 0);
    return json_object_get(opts, key) != NULL;
}

static bool secret_of(json_t *opts, const char *prefix, const char *name,
                      const struct luks_secrets *s, GBytes **ret, GError **error)
{
    const char *id = text_of(opts, prefix, name);
    *ret = id ? s->get(s->opaque, id, error) : NULL;
    return !id || *ret;
}

static bool read_change(struct luks *l, json_t *opts, const char *prefix,
                        const struct luks_secrets *s, struct change *c, GError **error)
{
    const char *state = text_of(opts, prefix, "state");
    uint64_t slot;
    if (!state) {
        return error_msg(error, "Parameter 'state' is missing");
    }
    if (!g_str_equal(state, "active") && !g_str_equal(state, "inactive")) {
        return error_msg(error, "Parameter 'state' does not accept value '%s'", state);
    }
    c->activate = g_str_equal(state, "active");
    c->has_slot = number_of(opts, prefix, "keyslot", &slot);
    c->has_iter = number_of(opts, prefix, "iter-time", &c->iter_ms);
    if (!secret_of(opts, prefix, "new-secret", s, &c->new_pass, error) ||
        !secret_of(opts, prefix, "old-secret", s, &c->old_pass, error)) {
        return false;
    }
    if (c->has_slot && slot >= LUKS_NB_SLOTS) {
        return error_msg(
            error, "Invalid keyslot %" PRIu64 " specified, must be between 0 and %d",
            slot, LUKS_NB_SLOTS - 1);
    }
    c->slot = (unsigned)slot;
    return true;
}

/* --- Adding
 * --------------------------------------------------------------------------- */

static bool find_free(const struct luks *l, unsigned *ret, GError **error)
{
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        if (!l->slots[i].active) {
            *ret = i;
            return true;
        }
    }
    return error_msg(error, "Can't add a keyslot - all keyslots are in use");
}

static bool add_slot(struct luks *l, struct change *c, const struct luks_secrets *s,
                     GError **error)
{
    uint64_t ms = c->has_iter ? c->iter_ms : luks_default_spec.iter_ms;
    GBytes *have = c->old_pass ? c->old_pass : s->opened_with;
    if (!c->new_pass) {
        return error_msg(error, "'new-secret' is required to activate a keyslot");
    }
    if (!c->has_slot && !find_free(l, &c->slot, error)) {
        return false;
    }
    if (l->slots[c->slot].active && !c->force) {
        return error_msg(error,
                         "Refusing to overwrite active keyslot %u - please erase it "
                         "first",
                         c->slot);
    }
    if (ms == 0) {
        return error_msg(error, "iter-time must not be zero");
    }
    if (!l->unlocked && !have) {
        return error_msg(error,
                         "Can't retrieve old password, needed to unlock the key");
    }
    if (!l->unlocked && !luks_unlock(l, have, error)) {
        g_clear_error(error);
        return error_msg(error, "Failed to retrieve the master key");
    }
    return luks_fill_slot(l, c->slot, c->new_pass, ms, error) &&
           luks_write_header(l, error);
}

/* --- Erasing
 * --------------------------------------------------------------------------- */

static unsigned nb_active(const struct luks *l)
{
    unsigned n = 0;
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        n += l->slots[i].active;
    }
    return n;
}

/* The header first: a slot without key material is worse than key material that no
 * slot leads to, and then that is overwritten. */
static bool erase(struct luks *l, unsigned which, GError **error)
{
    size_t len = luks_split_len(l);
    g_autofree uint8_t *noise = g_malloc(len);
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        if (which >> i & 1) {
            l->slots[i].active = false;
            l->slots[i].iters = 0;
            memset(l->slots[i].salt, 0, LUKS_SALT);
        }
    }
    if (!luks_write_header(l, error)) {
        return false;
    }
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        if (!(which >> i & 1)) {
            continue;
        }
        uint64_t at = l->offset + (uint64_t)l->slots[i].sector * LUKS_SECTOR;
        int r = RAND_bytes(noise, (int)len) == 1 ? blk_pwrite(l->file, at, noise, len)
                                                 : -EIO;
        if (r < 0) {
            return error_errno(error, -r, "Unable to overwrite keyslot %u", i);
        }
    }
    return true;
}

static bool erase_slot(struct luks *l, const struct change *c, GError **error)
{
    uint8_t key[LUKS_KEY_MAX];
    bool fits;
    if (c->old_pass) {
        if (!luks_try_slot(l, c->slot, c->old_pass, key, &fits, error)) {
            return false;
        }
        OPENSSL_cleanse(key, sizeof(key));
        if (!fits) {
            return error_msg(error,
                             "Given keyslot %u doesn't contain the given old password "
                             "for erase operation",
                             c->slot);
        }
    }
    if (!l->slots[c->slot].active && !c->force) {
        return error_msg(error, "Given keyslot %u is already erased (inactive) ",
                         c->slot);
    }
    if (nb_active(l) == 1 && !c->force) {
        return error_msg(error,
                         "Attempt to erase the only active keyslot %u which will erase "
                         "all the data in the image irreversibly - refusing operation",
                         c->slot);
    }
    return erase(l, 1u << c->slot, error);
}

static bool erase_matching(struct luks *l, const struct change *c, GError **error)
{
    uint8_t key[LUKS_KEY_MAX];
    unsigned which = 0, n = 0;
    for (unsigned i = 0; i < LUKS_NB_SLOTS; i++) {
        bool fits;
        if (!luks_try_slot(l, i, c->old_pass, key, &fits, error)) {
            return false;
        }
        which |= (unsigned)fits << i;
        n += fits;
    }
    OPENSSL_cleanse(key, sizeof(key));
    if (!n) {
        return error_msg(error,
                         "No keyslots match given (old) password for erase operation");
    }
    if (n == nb_active(l) && !c->force) {
        return error_msg(error,
                         "All the active keyslots match the (old) password that was "
                         "given and erasing them will erase all the data in the image "
                         "irreversibly - refusing operation");
    }
    return erase(l, which, error);
}

bool luks_amend(struct luks *l, json_t *opts, const char *prefix,
                const struct luks_secrets *secrets, bool force, GError **error)
{
    struct change c = {.force = force};
    if (!read_change(l, opts, prefix, secrets, &c, error)) {
        return false;
    }
    if (c.activate) {
        return add_slot(l, &c, secrets, error);
    }
    if (c.new_pass) {
        return error_msg(error, "'new-secret' must not be given when erasing keyslots");
    }
    if (c.has_iter) {
        return error_msg(error, "'iter-time' must not be given when erasing keyslots");
    }
    if (c.has_slot) {
        return erase_slot(l, &c, error);
    }
    if (c.old_pass) {
        return erase_matching(l, &c, error);
    }
    return error_msg(
        error, "To erase keyslot(s), either explicit keyslot index or the password "
               "currently contained in them must be given");
}
