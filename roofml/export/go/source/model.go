// Package roofml computes how long an LLM inference engine's step takes, from calibrations that roofml fitted.
//
// A Model is one calibration: of a model, a GPU and a tensor parallel size. It never changes once it is read, so that
// any number of goroutines may use it at once. All times are in µs.
//
//	model, err := roofml.Load("llama-2-7b-hf-h100-tp1") // or Find, or Open for a file
//	us, err := model.StepTime([]roofml.Request{{NewTokens: 16, Context: 560, PromptTokens: 576}, {NewTokens: 1, Context: 700, PromptTokens: 512}})
package roofml

import "fmt"

// Request is what a step computes of one request.
type Request struct {
	// NewTokens are the tokens that this step computes: one of a request that decodes.
	NewTokens int64
	// Context are the tokens in the KV cache before this step.
	Context int64
	// PromptTokens is the length of the prompt. A request with less context than that is computing its prompt.
	PromptTokens int64
}

const (
	mostTokens  = 1<<40 - 1
	mostReaches = 16
)

// Step is a batch that is being put together: what its time depends on, as sums.
type Step struct {
	model    *Model
	verified int64 // tokens of a request that decodes
	reaching bool  // whether any layer does not read its whole context

	requests, prefillTokens, prefillContext   int64
	decodeTokens, decodeContext, decodeBeyond int64
	prefillPairs                              float64
	near                                      [4 * mostReaches]float64
}

// NewStep returns an empty step.
func (m *Model) NewStep() Step {
	return Step{model: m, verified: int64(m.file.Tables.Verified), reaching: len(m.file.Tables.Reaches) > 0}
}

// Add puts a request into the step. It returns an error, and changes nothing, for one that computes no token, for a
// negative count, and for a count that no engine has.
func (s *Step) Add(r Request) error {
	if r.NewTokens < 1 || uint64(r.NewTokens|r.Context|r.PromptTokens) > mostTokens {
		return refused(r)
	}
	s.requests++
	if r.Context >= r.PromptTokens && r.NewTokens <= s.verified {
		s.decodeTokens += r.NewTokens
		s.decodeContext += r.Context
		s.decodeBeyond += max(0, r.Context-longContext)
	} else {
		s.addPrompt(r.NewTokens, r.Context)
	}
	if s.reaching {
		s.addNear(r)
	}
	return nil
}

func refused(r Request) error {
	return fmt.Errorf("roofml: %d new tokens, context %d, prompt %d: expected at least one new token, no negative count, and less than %d", r.NewTokens, r.Context, r.PromptTokens, int64(mostTokens))
}

// addPrompt adds a chunk of a prompt or, of a request that was preempted while it decoded, of what is computed again.
func (s *Step) addPrompt(newTokens, context int64) {
	tokens := float64(newTokens)
	s.prefillTokens += newTokens
	s.prefillPairs += tokens * (float64(context) + (tokens+1)/2)
	s.prefillContext += context
}

func (s *Step) addNear(r Request) {
	prompt := r.PromptTokens
	if r.NewTokens > s.verified {
		prompt = max(prompt, r.Context+1)
	}
	reaches := s.model.file.Tables.Reaches
	addNear(s.near[:4*len(reaches)], reaches, r.NewTokens, r.Context, prompt)
}

// Requests returns how many requests are in the step.
func (s *Step) Requests() int64 { return s.requests }

// Sums returns what the step's time depends on. They share memory with the step.
func (s *Step) Sums() StepSums {
	return StepSums{
		PrefillTokens:  float64(s.prefillTokens),
		DecodeTokens:   float64(s.decodeTokens),
		Requests:       float64(s.requests),
		PrefillPairs:   s.prefillPairs,
		PrefillContext: float64(s.prefillContext),
		DecodeContext:  float64(s.decodeContext),
		DecodeBeyond:   float64(s.decodeBeyond),
		Near:           s.near[:4*len(s.model.file.Tables.Reaches)],
	}
}

// Components returns the ideal time of each resource that the step uses, before corrections.
func (s *Step) Components() StepComponents {
	sums := s.Sums()
	return stepComponents(&s.model.file.Tables, &sums, s.prefillTokens+s.decodeTokens, s.decodeTokens, s.requests)
}

// Time returns how long the step takes, 0 if it is empty.
func (s *Step) Time() float64 {
	if s.requests == 0 {
		return 0
	}
	tables, parts := &s.model.file.Tables, s.Components()
	newTokens := float64(s.prefillTokens + s.decodeTokens)
	mixed := truth(s.prefillTokens > 0)
	time := stepTime(&parts, newTokens, float64(s.requests), mixed, tables.Layers, &s.model.file.Step)
	return noShorterThanLaunches(time, newTokens, tables)
}

// Outside says in which ways the step leaves what the calibration has seen; nothing if it does not.
func (s *Step) Outside() []string {
	if s.requests == 0 {
		return nil
	}
	var said []string
	outside := func(name string, asked float64, seen [2]float64) {
		if asked < seen[0] || asked > seen[1] {
			said = append(said, fmt.Sprintf("%s %.0f: the fit has seen %.0f to %.0f", name, asked, seen[0], seen[1]))
		}
	}
	valid := &s.model.file.Valid
	outside("batch", float64(s.requests), valid.Batch)
	outside("new_tokens", float64(s.prefillTokens+s.decodeTokens), valid.NewTokens)
	if s.decodeTokens > 0 {
		outside("context", float64(s.decodeContext)/float64(s.decodeTokens), valid.Context)
	}
	return said
}

// StepTime returns how long a step takes that computes these requests, 0 if there are none. The batch is only read.
// The error says which request cannot be (see Step.Add).
func (m *Model) StepTime(batch []Request) (float64, error) {
	step := m.NewStep()
	for i, request := range batch {
		if err := step.Add(request); err != nil {
			return 0, fmt.Errorf("request %d: %w", i, err)
		}
	}
	return step.Time(), nil
}

// QueueingTime returns how long a request takes from the client's send to the scheduler's queue, beside so many that
// run. With async scheduling it then waits for the step in flight and for the one already formed after it.
func (m *Model) QueueingTime(running int) float64 {
	return m.file.Request.QueueingUs + m.file.Request.QueueingPerRunningUs*float64(max(0, running))
}

// TokenLatency returns when the client has a token, from its send on: its time to first token or, of the last token,
// its end-to-end latency. `end` is when the step that made the token ended.
func (m *Model) TokenLatency(arrival, end float64) float64 {
	return end - arrival + m.file.Request.PipelineDelayUs
}

// RequestParameters returns what a request waits for besides steps of the usual time.
func (m *Model) RequestParameters() RequestParameters { return m.file.Request }

// StepParameters returns what was fitted of a step's time.
func (m *Model) StepParameters() StepParameters { return m.file.Step }

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
