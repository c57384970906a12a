#include "cmd/img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/base.h"

/*
 * JSON as qemu-img prints it. Scripts and test suites compare its text, and there the
 * members of an object are in the order of a hash table with 512 places, the newest
 * first within a place: so that order is part of the interface.
 */

enum { PLACES = 512 };

static unsigned place_of(const char *key)
{
    uint32_t v = 0x238F13AFu * (uint32_t)strlen(key);
    for (unsigned i = 0; key[i]; i++) {
        v += (uint32_t)(unsigned char)key[i] << (i * 5 % 24);
    }
    return (1103515243u * v + 12345u) % PLACES;
}

struct member {
    const char *key;
    unsigned place, nth;
};

static int by_place(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    if (x->place != y->place) {
        return x->place < y->place ? -1 : 1;
    }
    return x->nth > y->nth ? -1 : 1;
}

GPtrArray *img_json_keys(json_t *object)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(struct member));
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        struct member m = {key, place_of(key), all->len};
        g_array_append_val(all, m);
    }
    if (all->len) {
        qsort(all->data, all->len, sizeof(struct member), by_place);
    }
    GPtrArray *keys = g_ptr_array_new();
    for (unsigned i = 0; i < all->len; i++) {
        g_ptr_array_add(keys, (char *)g_array_index(all, struct member, i).key);
    }
    return keys;
}

static void put_string(GString *out, const char *s)
{
    static const char specials[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    g_string_append_c(out, '"');
    while (*s) {
        const char *special = strchr(specials, *s);
        gunichar c = g_utf8_get_char_validated(s, -1);
        if (special) {
            g_string_append_printf(out, "\\%c", letters[special - specials]);
            s++;
        } else if (c == (gunichar)-1 || c == (gunichar)-2) {
            g_string_append(out, "\\ufffd");
            s++;
        } else if (c < 0x20 || (c >= 0x7f && c < 0x10000)) {
            g_string_append_printf(out, "\\u%04X", c);
            s = g_utf8_next_char(s);
        } else if (c >= 0x10000) {
            g_string_append_printf(out, "\\u%04X\\u%04X", 0xD7C0 + (c >> 10),
                                   0xDC00 + (c & 0x3ff));
            s = g_utf8_next_char(s);
        } else {
            g_string_append_c(out, *s++);
        }
    }
    g_string_append_c(out, '"');
}

static void new_line(GString *out, unsigned depth)
{
    if (depth >= IMG_JSON_FLAT) {
        return;
    }
    g_string_append_printf(out, "\n%*s", (int)(depth * 4), "");
}

void img_json_text(GString *out, json_t *v, unsigned depth)
{
    const char *comma = depth >= IMG_JSON_FLAT ? ", " : ",";
    if (json_is_object(v)) {
        g_autoptr(GPtrArray) keys = img_json_keys(v);
        g_string_append_c(out, '{');
        for (unsigned i = 0; i < keys->len; i++) {
            g_string_append(out, i ? comma : "");
            new_line(out, depth + 1);
            put_string(out, keys->pdata[i]);
            g_string_append(out, ": ");
            img_json_text(out, json_object_get(v, keys->pdata[i]), depth + 1);
        }
        new_line(out, depth);
        g_string_append_c(out, '}');
    } else if (json_is_array(v)) {
        g_string_append_c(out, '[');
        for (size_t i = 0; i < json_array_size(v); i++) {
            g_string_append(out, i ? comma : "");
            new_line(out, depth + 1);
            img_json_text(out, json_array_get(v, i), depth + 1);
        }
        new_line(out, depth);
        g_string_append_c(out, ']');
    } else if (json_is_string(v)) {
        put_string(out, json_string_value(v));
    } else if (json_is_integer(v)) {
        g_string_append_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else {
        g_string_append(out, json_is_true(v)    ? "true"
                             : json_is_false(v) ? "false"
                                                : "null");
    }
}

void img_print_json(json_t *v)
{
    GString *out = g_string_new(NULL);
    img_json_text(out, v, 0);
    printf("%s\n", out->str);
    g_string_free(out, TRUE);
}
