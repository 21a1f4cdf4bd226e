// What attention's backward kernels share: tasks, delta, and dQ from its parts.
//
// A task is one key-value head and every `chunks`-th of its key blocks; it owns those rows of dK and dV. dQ is summed
// in float32 per task and the tasks' parts are added in order, so results do not depend on timing.
#pragma once

#include "cpu/attention_softmax.h"
#include "cpu/parallel.h"

namespace dlperf::DLPERF_ISA_NS::attention {

struct BackwardTasks {
    int64_t heads, group, blocks, chunks, tasks;
    int64_t delta;     // floats
    int64_t dq_parts;  // one per thread where a task has a whole head, else one per task

    BackwardTasks(const AttentionShape& s, int threads) {
        heads = s.batch * s.kv_heads;
        group = s.kv_heads ? s.heads / s.kv_heads : 0;
        blocks = (s.sk + kKeys - 1) / kKeys;
        // Few heads: their keys are split until the tasks fill the threads evenly.
        chunks = 1;
        while (chunks < blocks && chunks < threads) {
            const int64_t all = heads * chunks, rounds = (all + threads - 1) / threads;
            if (all * 8 >= rounds * threads * 7) break;
            ++chunks;
        }
        tasks = heads * chunks;
        delta = round_up(s.batch * s.heads * s.sq, 16);
        dq_parts = chunks == 1 ? threads : tasks;
    }
};

// delta = rowsum(dO * O)
template <class T>
static void rows_delta(const AttentionGradShape& g, const T* out, const T* d_out, int64_t begin, int64_t end,
                       float* delta) {
    const AttentionShape& s = g.forward;
    for (int64_t r = begin; r < end; ++r) {
        const int64_t bh = r / s.sq, q = r % s.sq, b = bh / s.heads, h = bh % s.heads;
        const T* o = out + b * s.out[0] + h * s.out[1] + q * s.out[2];
        const T* d = d_out + b * g.d_out[0] + h * g.d_out[1] + q * g.d_out[2];
        Vec sum = Vec::zero();
        for (int64_t i = 0; i < s.ev; i += Vec::W) {
            sum = fma(load_some(o + i, s.ev - i), load_some(d + i, s.ev - i), sum);
        }
        delta[r] = sum.sum();
    }
}

// dQ of rows begin .. end of one key-value head's group: the parts in order, part_step apart, their heads head_step,
// their rows row_step.
template <class T>
static void store_dq(const AttentionGradShape& g, int64_t head, int64_t begin, int64_t end, const float* parts,
                     int64_t count, int64_t part_step, int64_t head_step, int64_t row_step, float scale, T* dq) {
    const AttentionShape& s = g.forward;
    const int64_t b = head / s.kv_heads, kv = head % s.kv_heads, group = s.heads / s.kv_heads;
    const Vec factor = Vec::set1(scale);
    for (int64_t r = begin; r < end; ++r) {
        const float* part = parts + r / s.sq * head_step + r % s.sq * row_step;
        T* to = dq + b * g.dq[0] + (kv * group + r / s.sq) * g.dq[1] + r % s.sq * g.dq[2];
        for (int64_t i = 0; i < s.e; i += Vec::W) {
            Vec sum = Vec::load(part + i);
            for (int64_t c = 1; c < count; ++c) sum = sum + Vec::load(part + c * part_step + i);
            store_some(to + i, factor * sum, s.e - i);
        }
    }
}

// body(task's head, chunk, its part of dQ), and finish(head, begin, end, the head's parts) for rows of dQ.
template <class Delta, class Task, class Finish>
static DLPERF_INLINE void run_tasks(const BackwardTasks& t, const AttentionShape& s, int me, float* dq_parts,
                                    int64_t dq_size, const Delta& delta, const Task& task, const Finish& finish) {
    const Range mine = split(s.batch * s.heads * s.sq, omp_get_num_threads(), me);
    delta(mine.begin, mine.end);
#pragma omp barrier
    if (t.chunks == 1) {
#pragma omp for schedule(dynamic)
        for (int64_t head = 0; head < t.heads; ++head) {
            task(head, 0, dq_parts + me * dq_size);
            finish(head, 0, t.group * s.sq, dq_parts + me * dq_size);
        }
    } else {
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < t.tasks; ++i) task(i / t.chunks, i % t.chunks, dq_parts + i * dq_size);
        for (int64_t head = 0; head < t.heads; ++head) {
            const Range rows = split(t.group * s.sq, omp_get_num_threads(), me);
            finish(head, rows.begin, rows.end, dq_parts + head * t.chunks * dq_size);
        }
    }
}

}  // namespace dlperf::DLPERF_ISA_NS::attention
