// Package roofml computes how long an LLM inference engine's step takes, from calibrations that roofml fitted.
//
// A Model is one calibration: of a model, a GPU and a tensor parallel size. It never changes once it is read, so that
// any number of goroutines may use it at once. All times are in µs.
//
//	model, err := roofml.Load("llama-2-7b-hf-h100-tp1") // or Find, or Open for a file
//	us, err := model.StepTime([]roofml.Request{{NewTokens: 16, Context: 560, PromptTokens: 576}, {NewTokens: 1, Context: 700, PromptTokens: 512}})
package roofml

import (
	"fmt"
	"math"
)

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
	mostTokens  = 1 << 40
	mostReaches = 16
)

// Step is a batch that is being put together: what its time depends on, as sums.
type Step struct {
	model *Model
	sums  StepSums
	near  [4 * mostReaches]float64
}

// NewStep returns an empty step.
func (m *Model) NewStep() Step { return Step{model: m} }

// Add puts a request into the step. It returns an error, and changes nothing, for one that computes no token, for a
// negative count, and for a count that no engine has.
func (s *Step) Add(r Request) error {
	if r.NewTokens < 1 || r.Context < 0 || r.PromptTokens < 0 {
		return fmt.Errorf("roofml: %d new tokens, context %d, prompt %d: expected at least one new token and no negative count", r.NewTokens, r.Context, r.PromptTokens)
	}
	if r.NewTokens > mostTokens || r.Context > mostTokens || r.PromptTokens > mostTokens {
		return fmt.Errorf("roofml: %d new tokens, context %d, prompt %d: expected at most %d", r.NewTokens, r.Context, r.PromptTokens, int64(mostTokens))
	}
	s.add(r.NewTokens, r.Context, r.PromptTokens)
	return nil
}

func (s *Step) add(newTokens, context, prompt int64) {
	decodes := int64(s.model.file.Tables.Verified)
	if newTokens > decodes && context >= prompt {
		prompt = context + 1 // preempted while it decoded: its tokens are computed again, as a prompt's are
	}
	sums := &s.sums
	sums.Requests++
	tokens, before := float64(newTokens), float64(context)
	if context < prompt {
		sums.PrefillTokens += tokens
		sums.PrefillPairs += tokens * (before + (tokens+1)/2)
		sums.PrefillContext += before
	} else {
		sums.DecodeTokens += tokens
		sums.DecodeContext += before
		sums.DecodeBeyond += float64(max(0, context-longContext))
	}
	if reaches := s.model.file.Tables.Reaches; len(reaches) > 0 {
		addNear(s.near[:4*len(reaches)], reaches, newTokens, context, prompt)
	}
}

// Requests returns how many requests are in the step.
func (s *Step) Requests() int64 { return int64(s.sums.Requests) }

// Sums returns what the step's time depends on.
func (s *Step) Sums() StepSums {
	sums := s.sums
	sums.Near = append([]float64(nil), s.near[:4*len(s.model.file.Tables.Reaches)]...)
	return sums
}

// Components returns the ideal time of each resource that the step uses, before corrections.
func (s *Step) Components() StepComponents {
	sums, tables := s.sums, &s.model.file.Tables
	sums.Near = s.near[:4*len(tables.Reaches)]
	newTokens := int64(sums.PrefillTokens + sums.DecodeTokens)
	return stepComponents(tables, &sums, newTokens, int64(sums.DecodeTokens), int64(sums.Requests))
}

// Time returns how long the step takes, 0 if it is empty.
func (s *Step) Time() float64 {
	if s.sums.Requests == 0 {
		return 0
	}
	tables, parts := &s.model.file.Tables, s.Components()
	newTokens := s.sums.PrefillTokens + s.sums.DecodeTokens
	mixed := truth(s.sums.PrefillTokens > 0)
	time := stepTime(&parts, newTokens, s.sums.Requests, mixed, tables.Layers, &s.model.file.Step)
	return noShorterThanLaunches(time, newTokens, tables)
}

// Outside says in which ways the step leaves what the calibration has seen; nothing if it does not.
func (s *Step) Outside() []string {
	var said []string
	newTokens := s.sums.PrefillTokens + s.sums.DecodeTokens
	for _, asked := range []struct {
		name  string
		value float64
	}{{"batch", s.sums.Requests}, {"new_tokens", newTokens}, {"context", s.sums.DecodeContext / math.Max(s.sums.DecodeTokens, 1)}} {
		seen, known := s.model.file.Valid[asked.name]
		if asked.name == "context" && s.sums.DecodeTokens == 0 || s.sums.Requests == 0 || !known {
			continue
		}
		if asked.value < seen[0] || asked.value > seen[1] {
			said = append(said, fmt.Sprintf("%s %.0f: the fit has seen %.0f to %.0f", asked.name, asked.value, seen[0], seen[1]))
		}
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
