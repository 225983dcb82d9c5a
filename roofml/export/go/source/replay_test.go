package roofml

import (
	"math"
	"testing"
)

// goldenRun is a run that roofml served: when requests arrived, which of them each step computed, and the latencies.
type goldenRun struct {
	// Requests have arrival µs, requests running then, prompt tokens, and those of them found in the cache.
	Requests []struct {
		ArrivalUs    float64 `json:"arrival_us"`
		Running      int     `json:"running"`
		PromptTokens int64   `json:"prompt_tokens"`
		CachedTokens int64   `json:"cached_tokens"`
	} `json:"requests"`
	// Steps have, of each request in them, its number and how many tokens are computed.
	Steps [][][2]int64 `json:"steps"`
	// ColdSteps and ColdKernels are the steps in which a server that has just started pays for its first mixed step,
	// and for a kernel that it compiles.
	ColdSteps   []int     `json:"cold_steps"`
	ColdKernels []int     `json:"cold_kernels"`
	TtftUs      []float64 `json:"ttft_us"`
	E2eUs       []float64 `json:"e2e_us"`
}

// replayed gives the latencies of a schedule. A step starts when the one before it has ended and all that join it are in
// the queue; with async scheduling it was formed a step earlier, which is why its requests joined when they did.
func replayed(model *Model, run goldenRun) (ttft, e2e []float64, err error) {
	context := make([]int64, len(run.Requests))
	queued := make([]float64, len(run.Requests))
	ttft, e2e = make([]float64, len(run.Requests)), make([]float64, len(run.Requests))
	for i, request := range run.Requests {
		context[i] = request.CachedTokens
		queued[i] = request.ArrivalUs + model.QueueingTime(request.Running)
	}
	cold := map[int]float64{}
	for _, number := range run.ColdSteps {
		cold[number] += model.RequestParameters().ColdStepUs
	}
	for _, number := range run.ColdKernels {
		cold[number] += model.RequestParameters().ColdKernelUs
	}
	end := 0.0
	for number, requests := range run.Steps {
		step, start := model.NewStep(), end
		for _, row := range requests {
			r, tokens := row[0], row[1]
			if err := step.Add(Request{tokens, context[r], run.Requests[r].PromptTokens}); err != nil {
				return nil, nil, err
			}
			if context[r] == run.Requests[r].CachedTokens {
				start = math.Max(start, queued[r])
			}
		}
		end = start + (step.Time() + cold[number])
		for _, row := range requests {
			r := row[0]
			context[r] += row[1]
			if context[r] == run.Requests[r].PromptTokens {
				ttft[r] = model.TokenLatency(run.Requests[r].ArrivalUs, end)
			}
			if context[r] >= run.Requests[r].PromptTokens {
				e2e[r] = model.TokenLatency(run.Requests[r].ArrivalUs, end)
			}
		}
	}
	return ttft, e2e, nil
}

func TestWholeReplaysAreThoseOfRoofml(t *testing.T) {
	for name, of := range readGolden(t) {
		model, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(of.Runs) == 0 {
			t.Errorf("%s: no golden runs", name)
		}
		for number, run := range of.Runs {
			ttft, e2e, err := replayed(model, run)
			if err != nil {
				t.Fatal(err)
			}
			for i := range run.Requests {
				if !near(ttft[i], run.TtftUs[i]) || !near(e2e[i], run.E2eUs[i]) {
					t.Fatalf("%s: run %d, request %d: TTFT %.12g and E2E %.12g µs, roofml says %.12g and %.12g", name, number, i, ttft[i], e2e[i], run.TtftUs[i], run.E2eUs[i])
				}
			}
		}
	}
}
