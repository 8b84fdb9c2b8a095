// Positive chips as SNIPER's reference code chooses them: every position of a grid is a candidate, and the one that
// encloses most boxes that are still uncovered is taken, again and again. Written from a description of that code.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace {

constexpr double TOLERANCE = 1e-6;  // as in lightning_det/views/cover.py

// Every `stride` pixels from 0, and flush with the end.
std::vector<double> positions(double length, double size, double stride) {
    std::vector<double> found;
    for (int number = 0; number * stride < length - size - TOLERANCE; ++number) found.push_back(number * stride);
    found.push_back(std::max(0.0, length - size));
    return found;
}

// Chips of one image and scale; returns their number.
int64_t choose(int64_t n, const double* boxes, double width, double height, double size, double stride,
               std::mt19937& random, double* chips, uint8_t* enclosed) {
    const auto columns = positions(width, size, stride), rows = positions(height, size, stride);
    std::vector<std::pair<double, double>> candidates;
    for (double x : columns)
        for (double y : rows) candidates.emplace_back(x, y);
    std::shuffle(candidates.begin(), candidates.end(), random);  // breaks ties

    std::vector<std::vector<int>> inside(candidates.size()), around(n);
    std::vector<int> gains(candidates.size());
    for (size_t c = 0; c < candidates.size(); ++c) {
        const double x = candidates[c].first - TOLERANCE, y = candidates[c].second - TOLERANCE;
        const double right = candidates[c].first + size + TOLERANCE, bottom = candidates[c].second + size + TOLERANCE;
        for (int64_t b = 0; b < n; ++b) {
            const double* box = boxes + 4 * b;
            if (box[0] >= x && box[1] >= y && box[2] <= right && box[3] <= bottom) {
                inside[c].push_back(b);
                around[b].push_back(c);
            }
        }
        gains[c] = inside[c].size();
    }

    std::vector<bool> covered(n);
    int64_t count = 0;
    while (true) {
        const size_t best = std::max_element(gains.begin(), gains.end()) - gains.begin();
        if (gains[best] == 0) return count;
        chips[3 * count] = candidates[best].first;
        chips[3 * count + 1] = candidates[best].second;
        chips[3 * count + 2] = gains[best];
        for (int b : inside[best]) {
            enclosed[count * n + b] = 1;
            if (covered[b]) continue;
            covered[b] = true;
            for (int c : around[b]) --gains[c];
        }
        ++count;
    }
}

}  // namespace

// Boxes of problem i are rows offsets[i] to offsets[i + 1] of `boxes` (xyxy), its chips begin at the same row of
// `chips` (x, y, gain), of which there are counts[i]. `enclosed` holds a chips x boxes table per problem, one after
// another, zero when passed.
extern "C" void mine(int64_t problems, const int64_t* offsets, const double* boxes, const double* extents, double size,
                     double stride, uint32_t seed, double* chips, uint8_t* enclosed, int64_t* counts) {
    std::mt19937 random(seed);
    for (int64_t i = 0; i < problems; ++i) {
        const int64_t start = offsets[i], n = offsets[i + 1] - start;
        counts[i] = choose(n, boxes + 4 * start, extents[2 * i], extents[2 * i + 1], size, stride, random,
                           chips + 3 * start, enclosed);
        enclosed += n * n;
    }
}
