
/* A calibration: a deployment, and what was fitted of it. All times are in microseconds. */
typedef struct {
    const char *name, *model, *gpu, *coefficients_sha256;
    int tensor_parallel;
    roofml_component_tables tables;
    roofml_step_parameters step;
    roofml_request_parameters request;
} roofml_calibration;

/* A step that is being put together; all zeros is an empty one. */
typedef struct {
    int64_t requests, prefill_tokens, prefill_context, decode_tokens, decode_context, decode_beyond;
    double prefill_pairs;
    double near[ROOFML_MOST_NEAR];
} roofml_step;

/* Put a request into the step: its new tokens, its tokens in the KV cache, the length of its prompt.
   Returns 0, or -1 for what no step computes, which changes nothing. */
static inline int roofml_add(const roofml_calibration *c, roofml_step *s, int64_t tokens, int64_t context, int64_t prompt) {
    const int64_t most = (int64_t)1 << 40, verified = (int64_t)c->tables.verified;
    if (tokens < 1 || context < 0 || prompt < 0 || tokens >= most || context >= most || prompt >= most) return -1;
    if (tokens > verified) prompt = roofml_max_whole(prompt, context + 1); /* preempted: computed again, as a prompt is */
    s->requests++;
    if (context < prompt) {
        s->prefill_tokens += tokens;
        s->prefill_context += context;
        s->prefill_pairs += (double)tokens * ((double)context + ((double)tokens + 1.0) / 2.0);
    } else {
        s->decode_tokens += tokens;
        s->decode_context += context;
        s->decode_beyond += roofml_max_whole(0, context - ROOFML_LONG_CONTEXT);
    }
    roofml_add_near(s->near, c->tables.reaches, tokens, context, prompt);
    return 0;
}

/* How long the step takes; 0 if it is empty. */
static inline double roofml_step_us(const roofml_calibration *c, roofml_step *s) {
    if (s->requests == 0) return 0.0;
    const double tokens = (double)(s->prefill_tokens + s->decode_tokens), requests = (double)s->requests;
    const roofml_step_sums sums = {
        .prefill_tokens = (double)s->prefill_tokens, .decode_tokens = (double)s->decode_tokens, .requests = requests,
        .prefill_pairs = s->prefill_pairs, .prefill_context = (double)s->prefill_context,
        .decode_context = (double)s->decode_context, .decode_beyond = (double)s->decode_beyond, .near = s->near,
    };
    const roofml_step_components parts =
        roofml_step_components_of(c->tables, sums, s->prefill_tokens + s->decode_tokens, s->decode_tokens, s->requests);
    const double mixed = s->prefill_tokens > 0 ? 1.0 : 0.0;
    const double us = roofml_step_time(parts, tokens, requests, mixed, c->tables.layers, c->step);
    return roofml_no_shorter_than_launches(us, tokens, c->tables);
}

/* From the client's send to the scheduler's queue, beside so many requests that run. */
static inline double roofml_queueing_us(const roofml_calibration *c, int64_t running) {
    return c->request.queueing_us + c->request.queueing_per_running_us * (double)roofml_max_whole(0, running);
}

