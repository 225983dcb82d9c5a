
/// A calibration: a deployment, and what was fitted of it. All times are in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Calibration {
    pub name: &'static str,
    pub model: &'static str,
    pub gpu: &'static str,
    pub coefficients_sha256: &'static str,
    pub tensor_parallel: u32,
    pub tables: ComponentTables,
    pub step: StepParameters,
    pub request: RequestParameters,
}

/// What a step computes of one request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub new_tokens: i64,
    /// Tokens in the KV cache before the step.
    pub context: i64,
    pub prompt_tokens: i64,
}

impl Calibration {
    /// How long a step takes that computes these requests, 0 if there are none. None where one cannot be: it computes no
    /// token, has a negative count, or one that no engine has.
    pub fn step_us(&self, batch: &[Request]) -> Option<f64> {
        let (mut prefill, mut decode, mut before, mut context, mut beyond) = (0i64, 0i64, 0i64, 0i64, 0i64);
        let (mut pairs, mut near) = (0.0, [0.0; MOST_NEAR]);
        for request in batch {
            let (new, known, most) = (request.new_tokens, request.context, 1i64 << 40);
            let mut prompt = request.prompt_tokens;
            if new < 1 || known < 0 || prompt < 0 || new >= most || known >= most || prompt >= most {
                return None;
            }
            if new > self.tables.verified as i64 {
                prompt = prompt.max(known + 1); // preempted: computed again, as a prompt is
            }
            if known < prompt {
                prefill += new;
                before += known;
                pairs += new as f64 * (known as f64 + (new as f64 + 1.0) / 2.0);
            } else {
                decode += new;
                context += known;
                beyond += (known - LONG_CONTEXT).max(0);
            }
            add_near(&mut near, self.tables.reaches, new, known, prompt);
        }
        if batch.is_empty() {
            return Some(0.0);
        }
        let requests = batch.len() as i64;
        let sums = StepSums {
            prefill_tokens: prefill as f64,
            decode_tokens: decode as f64,
            requests: requests as f64,
            prefill_pairs: pairs,
            prefill_context: before as f64,
            decode_context: context as f64,
            decode_beyond: beyond as f64,
            near,
        };
        let tokens = (prefill + decode) as f64;
        let parts = step_components(&self.tables, &sums, prefill + decode, decode, requests);
        let mixed = f64::from(prefill > 0);
        let us = step_time(&parts, tokens, requests as f64, mixed, self.tables.layers, &self.step);
        Some(no_shorter_than_launches(us, tokens, &self.tables))
    }

    /// From the client's send to the scheduler's queue, beside so many requests that run.
    pub fn queueing_us(&self, running: u32) -> f64 {
        self.request.queueing_us + self.request.queueing_per_running_us * f64::from(running)
    }
}

