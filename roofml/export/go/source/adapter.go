// roofml's step times as a latency backend of BLIS. This file goes into sim/latency of a BLIS checkout, whose other files
// stay as they are: `--latency-model roofml` is answered here, every other backend by what was there before. Its name
// sorts last, so that the package's own init has run before the one here.

package latency

import (
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"sync"

	"github.com/inference-sim/inference-sim/sim"
	"github.com/inference-sim/inference-sim/sim/roofml"
)

// roofmlBackend is the name that this backend answers to. A BLIS that checks names before it asks its factory does not
// know it: add it to the list there, or let ROOFML_BACKEND name one that BLIS knows, which roofml then answers to.
const roofmlBackend = "roofml"

func init() { sim.NewLatencyModelFunc = roofmlWrapped(sim.NewLatencyModelFunc) }

type roofmlFactory = func(sim.LatencyCoeffs, sim.ModelHardwareConfig) (sim.LatencyModel, error)

// roofmlWrapped answers for roofml's backend, and hands every other one on to the former factory.
func roofmlWrapped(former roofmlFactory) roofmlFactory {
	return func(coeffs sim.LatencyCoeffs, hardware sim.ModelHardwareConfig) (sim.LatencyModel, error) {
		ours := roofmlBackend
		if other := os.Getenv("ROOFML_BACKEND"); other != "" {
			ours = other
		}
		backend, err := roofmlField(hardware, "Backend")
		if err != nil {
			return nil, err
		}
		if backend.String() != ours {
			if former == nil {
				return nil, fmt.Errorf("roofml: no backend %q was there before", backend)
			}
			return former(coeffs, hardware)
		}
		return newRoofmlModel(hardware)
	}
}

// roofmlField is a field of BLIS's hardware configuration, by name, so that this file compiles whatever else a release
// of BLIS has there.
func roofmlField(hardware sim.ModelHardwareConfig, name string) (reflect.Value, error) {
	field := reflect.ValueOf(hardware).FieldByName(name)
	if !field.IsValid() {
		return field, fmt.Errorf("roofml: this BLIS's ModelHardwareConfig has no %s: export again with a newer roofml", name)
	}
	return field, nil
}

// roofmlModel is one instance's latency model. It remembers its last step: QueueingTime is told nothing of the load.
type roofmlModel struct {
	model *roofml.Model

	guard   sync.Mutex
	last    float64 // time of the last step, µs
	running int     // requests that go on after it
	said    map[string]bool
}

func newRoofmlModel(hardware sim.ModelHardwareConfig) (*roofmlModel, error) {
	values := map[string]reflect.Value{}
	for _, name := range []string{"Model", "GPU", "TP"} {
		value, err := roofmlField(hardware, name)
		if err != nil {
			return nil, err
		}
		values[name] = value
	}
	model, err := roofml.Find(values["Model"].String(), values["GPU"].String(), int(values["TP"].Int()))
	if err != nil {
		return nil, err
	}
	for _, doubt := range model.Doubts() {
		fmt.Fprintf(os.Stderr, "roofml: %s: %s\n", model.Name(), doubt)
	}
	return &roofmlModel{model: model, said: map[string]bool{}}, nil
}

// StepTime is the time of a step, in µs, at least 1. Requests are only read.
func (m *roofmlModel) StepTime(batch []*sim.Request) int64 {
	step, running := m.model.NewStep(), 0
	for _, request := range batch {
		if request == nil {
			continue
		}
		prompt, output := int64(len(request.InputTokens)), int64(len(request.OutputTokens))
		context, tokens := max(0, int64(request.ProgressIndex)), int64(request.NumNewTokens)
		if context >= prompt {
			tokens = min(1, output) // it decodes, if it has anything to
		}
		if context+max(0, tokens) < prompt+max(1, output)-1 {
			running++
		}
		if tokens >= 1 {
			// What no engine has is refused by Add: such a request takes no time.
			_ = step.Add(roofml.Request{NewTokens: tokens, Context: context, PromptTokens: prompt})
		}
	}
	time := step.Time()
	m.guard.Lock()
	defer m.guard.Unlock()
	m.last, m.running = time, running
	for _, outside := range step.Outside() {
		kind := strings.SplitN(outside, " ", 2)[0]
		if !m.said[kind] {
			m.said[kind] = true
			fmt.Fprintf(os.Stderr, "roofml: %s: a step with %s (said once)\n", m.model.Name(), outside)
		}
	}
	return max(1, roofmlTicks(time))
}

// QueueingTime is the time from a request's arrival to the queue, µs: what was fitted, with the contention of the
// running requests; the pipeline's delay, which BLIS has no place for at the other end; and, while requests run, a step
// more, because vLLM's async scheduling has formed the next one already.
func (m *roofmlModel) QueueingTime(*sim.Request) int64 {
	m.guard.Lock()
	defer m.guard.Unlock()
	time := m.model.QueueingTime(m.running) + m.model.RequestParameters().PipelineDelayUs
	if m.running > 0 {
		time += m.last
	}
	return roofmlTicks(time)
}

// OutputTokenProcessingTime is 0: every chunk of a request is late by the same delay, which is in QueueingTime.
func (m *roofmlModel) OutputTokenProcessingTime() int64 { return 0 }

// PostDecodeFixedOverhead is 0: the last chunk is as late as every other.
func (m *roofmlModel) PostDecodeFixedOverhead() int64 { return 0 }

// roofmlTicks is a time in whole µs; the largest where it is too large or no number.
func roofmlTicks(us float64) int64 {
	if !(us < math.MaxInt64) {
		return math.MaxInt64
	}
	return int64(us)
}
