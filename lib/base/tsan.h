#ifndef LIB_BASE_TSAN_H
#define LIB_BASE_TSAN_H

/*
 * GLib's locks for ThreadSanitizer. Debian's GLib is built without it and locks with
 * bare futexes, so that a GMutex orders nothing in its eyes; in the TSan tree these
 * macros tell it. Included by base.h; in other trees there is nothing here.
 */

#if defined(__SANITIZE_THREAD__)
    #define LODGE_TSAN 1
#elif defined(__has_feature)
    #if __has_feature(thread_sanitizer)
        #define LODGE_TSAN 1
    #endif
#endif

#ifdef LODGE_TSAN
    #include <glib.h>
    #include <sanitizer/tsan_interface.h>

static inline void tsan_mutex_lock(GMutex *m)
{
    g_mutex_lock(m);
    __tsan_acquire(m);
}

static inline gboolean tsan_mutex_trylock(GMutex *m)
{
    gboolean got = g_mutex_trylock(m);
    if (got) {
        __tsan_acquire(m);
    }
    return got;
}

static inline void tsan_mutex_unlock(GMutex *m)
{
    __tsan_release(m);
    g_mutex_unlock(m);
}

static inline void tsan_cond_wait(GCond *c, GMutex *m)
{
    __tsan_release(m);
    g_cond_wait(c, m);
    __tsan_acquire(m);
}

static inline gboolean tsan_cond_wait_until(GCond *c, GMutex *m, gint64 end)
{
    __tsan_release(m);
    gboolean signalled = g_cond_wait_until(c, m, end);
    __tsan_acquire(m);
    return signalled;
}

    #define g_mutex_lock(m)              tsan_mutex_lock(m)
    #define g_mutex_trylock(m)           tsan_mutex_trylock(m)
    #define g_mutex_unlock(m)            tsan_mutex_unlock(m)
    #define g_cond_wait(c, m)            tsan_cond_wait(c, m)
    #define g_cond_wait_until(c, m, end) tsan_cond_wait_until(c, m, end)
#endif

#endif
