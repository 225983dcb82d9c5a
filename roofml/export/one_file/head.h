#ifndef ROOFML_H
#define ROOFML_H

#include <math.h>
#include <stdint.h>

/* Numbers by tokens or requests, as points with straight lines between them; past its end a table keeps its slope. */
typedef struct { const int64_t *places; const double *values; int64_t count; } roofml_table;
typedef struct { const double (*row)[4]; int64_t count; } roofml_rows;
typedef struct { const int64_t (*row)[4]; int64_t count; } roofml_reaches;

#define ROOFML_MOST_NEAR 64

static inline int64_t roofml_min_whole(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t roofml_max_whole(int64_t a, int64_t b) { return a > b ? a : b; }

static inline double roofml_at(roofml_table table, int64_t place) {
    int64_t low = 0, high = table.count - 1;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (table.places[middle] <= place) low = middle; else high = middle;
    }
    double share = (double)(place - table.places[low]) / (double)(table.places[high] - table.places[low]);
    return table.values[low] + share * (table.values[high] - table.values[low]);
}

