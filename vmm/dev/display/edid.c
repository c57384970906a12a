#include "vmm/dev/display/edid.h"

#include <string.h>

#include "lib/base/bytes.h"

enum { DPI = 100 };

static unsigned millimetres(unsigned pixels)
{
    return pixels * 254 / (DPI * 10);
}

/* The detailed timing (3.10.2): blanking as CVT's reduced one has it. */
static void put_timing(uint8_t *d, unsigned w, unsigned h)
{
    enum { H_BLANK = 160, V_BLANK = 35, H_FRONT = 48, H_SYNC = 32, V_FRONT = 3 };
    enum { V_SYNC = 6, HZ = 60, DIGITAL_SEPARATE = 0x1a };
    unsigned clock = (w + H_BLANK) * (h + V_BLANK) * HZ / 10000;
    unsigned mm_w = millimetres(w), mm_h = millimetres(h);

    le16_put(d, (uint16_t)(clock > UINT16_MAX ? UINT16_MAX : clock));
    d[2] = (uint8_t)w;
    d[3] = H_BLANK;
    d[4] = (uint8_t)(w >> 8 << 4);
    d[5] = (uint8_t)h;
    d[6] = V_BLANK;
    d[7] = (uint8_t)(h >> 8 << 4);
    d[8] = H_FRONT;
    d[9] = H_SYNC;
    d[10] = V_FRONT << 4 | V_SYNC;
    d[12] = (uint8_t)mm_w;
    d[13] = (uint8_t)mm_h;
    d[14] = (uint8_t)(mm_w >> 8 << 4 | mm_h >> 8);
    d[17] = DIGITAL_SEPARATE;
}

static void put_text(uint8_t *d, uint8_t tag, const char *text)
{
    size_t len = strlen(text);

    d[3] = tag;
    memset(d + 5, ' ', 13);
    memcpy(d + 5, text, len);
    d[5 + len] = '\n';
}

void edid_make(uint8_t ret[EDID_LEN], unsigned width, unsigned height)
{
    static const uint8_t magic[8] = {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0};
    /* The primaries of sRGB (3.7). */
    static const uint8_t srgb[10] = {0xee, 0x91, 0xa3, 0x54, 0x4c,
                                     0x99, 0x26, 0x0f, 0x50, 0x54};
    /* Horizontal / 8 - 31; aspect ratio in bits 7:6, 60 Hz in the rest: 1920x1080,
     * 1680x1050, 1440x900, 1280x1024, 1280x800, 1024x768 (3.9). */
    static const uint8_t standard[16] = {0xd1, 0xc0, 0xb3, 0x00, 0x95, 0x00,
                                         0x81, 0x80, 0x81, 0x00, 0x61, 0x40,
                                         0x01, 0x01, 0x01, 0x01};
    enum { NAME = 0xfc, TEXT = 0xfe, RANGE = 0xfd };
    uint8_t sum = 0;

    memset(ret, 0, EDID_LEN);
    memcpy(ret, magic, sizeof(magic));
    be16_put(ret + 8, ('L' - '@') << 10 | ('D' - '@') << 5 | ('G' - '@'));
    le16_put(ret + 10, 1);
    ret[16] = 1;  /* week */
    ret[17] = 36; /* year, from 1990 */
    ret[18] = 1;
    ret[19] = 4;
    ret[20] = 0xa0; /* digital, 8 bits per colour */
    ret[21] = (uint8_t)((millimetres(width) + 9) / 10);
    ret[22] = (uint8_t)((millimetres(height) + 9) / 10);
    ret[23] = 120;  /* gamma 2.2 */
    ret[24] = 0x06; /* sRGB; the first timing is the best one */
    memcpy(ret + 25, srgb, sizeof(srgb));
    ret[35] = 0x21; /* 640x480, 800x600 */
    ret[36] = 0x08; /* 1024x768 */
    memcpy(ret + 38, standard, sizeof(standard));
    put_timing(ret + 54, width, height);
    put_text(ret + 72, NAME, "Lodge");
    put_text(ret + 90, TEXT, "virtual");
    /* 50 to 125 Hz, 30 to 160 kHz, 2550 MHz at most. */
    memcpy(ret + 108, (uint8_t[]){0, 0, 0, RANGE, 0, 50, 125, 30, 160, 255, 1, '\n'},
           12);
    memset(ret + 120, ' ', 6);
    for (unsigned i = 0; i < EDID_LEN - 1; i++)
        sum = (uint8_t)(sum + ret[i]);
    ret[EDID_LEN - 1] = (uint8_t)-sum;
}
