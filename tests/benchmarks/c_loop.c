/* The sensor's `linear` tick as a C programmer would write it for one machine: GCC's vectors of
   WIDTH bytes, VECTORS of them side by side to hide the latency of an addition, residue in
   registers, eight ticks a byte. Sensor: identity table, reset by subtraction, start at nothing.
   LANE is int32_t with light codes, or int16_t with luma codes, which the same bits need no more
   than. */

#include <stdint.h>

enum { LANES = WIDTH / sizeof(LANE), PIXELS = LANES * VECTORS };

typedef LANE lanes __attribute__((vector_size(WIDTH)));
typedef uint8_t bytes __attribute__((vector_size(WIDTH / sizeof(LANE)), aligned(1)));

static inline lanes light_of(const uint8_t *luma, LANE unit)
{
    return __builtin_convertvector(*(const bytes *)luma, lanes) * unit;
}

/* luma: intervals + 1 frames of `pixels` pixels, a multiple of PIXELS; packed: one byte a pixel
   and eight ticks, the last perhaps unfinished. */
void simulate(const uint8_t *luma, long pixels, long intervals, long ticks_per_frame, long unit,
              long threshold, uint8_t *packed)
{
    const LANE first = 2 * ticks_per_frame - 1;
    const lanes thresholds = (lanes){0} + (LANE)threshold;
    for (long pixel = 0; pixel < pixels; pixel += PIXELS) {
        const uint8_t *frame = luma + pixel;
        uint8_t *group = packed + pixel;
        lanes residue[VECTORS] = {0}, spikes[VECTORS] = {0}, charge[VECTORS], step[VECTORS];
        LANE bit = 1;
        for (long n = 0; n < intervals; n++, frame += pixels) {
            for (int v = 0; v < VECTORS; v++) {
                lanes from = light_of(frame + v * LANES, (LANE)unit);
                lanes to = light_of(frame + pixels + v * LANES, (LANE)unit);
                charge[v] = from * first + to;
                step[v] = 2 * (to - from);
            }
            for (long k = 0; k < ticks_per_frame; k++) {
                for (int v = 0; v < VECTORS; v++) {
                    residue[v] += charge[v];
                    lanes fired = residue[v] >= thresholds;
                    residue[v] -= fired & thresholds;
                    spikes[v] |= fired & bit;
                    charge[v] += step[v];
                }
                bit <<= 1;
                if (bit == 1 << 8) {
                    for (int v = 0; v < VECTORS; v++) {
                        *(bytes *)(group + v * LANES) = __builtin_convertvector(spikes[v], bytes);
                        spikes[v] = (lanes){0};
                    }
                    bit = 1;
                    group += pixels;
                }
            }
        }
        if (bit > 1)
            for (int v = 0; v < VECTORS; v++)
                *(bytes *)(group + v * LANES) = __builtin_convertvector(spikes[v], bytes);
    }
}
