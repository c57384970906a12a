#include "block/image_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return image_fuzz("cloop", data, size);
}
