package latency

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/inference-sim/inference-sim/sim"
	"github.com/inference-sim/inference-sim/sim/roofml"
)

// roofmlHardware is a configuration of BLIS for a backend and a deployment.
func roofmlHardware(backend, model, gpu string, tp int) sim.ModelHardwareConfig {
	var hardware sim.ModelHardwareConfig
	value := reflect.ValueOf(&hardware).Elem()
	value.FieldByName("Backend").SetString(backend)
	value.FieldByName("Model").SetString(model)
	value.FieldByName("GPU").SetString(gpu)
	value.FieldByName("TP").SetInt(int64(tp))
	return hardware
}

func roofmlEach(t *testing.T, check func(*testing.T, func() sim.LatencyModel)) {
	t.Helper()
	there, err := roofml.Names()
	if err != nil || len(there) == 0 {
		t.Fatalf("no artifacts: %v", err)
	}
	for _, name := range there {
		model, err := roofml.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		hardware := roofmlHardware("roofml", model.ModelName(), model.GPU(), model.TensorParallel())
		t.Run(name, func(t *testing.T) {
			check(t, func() sim.LatencyModel {
				made, err := sim.NewLatencyModelFunc(sim.LatencyCoeffs{}, hardware)
				if err != nil {
					t.Fatal(err)
				}
				return made
			})
		})
	}
}

func roofmlRequest(progress int64, tokens, input, output int) *sim.Request {
	request := &sim.Request{ProgressIndex: progress, NumNewTokens: tokens}
	value := reflect.ValueOf(request).Elem()
	for name, length := range map[string]int{"InputTokens": input, "OutputTokens": output} {
		field := value.FieldByName(name)
		field.Set(reflect.MakeSlice(field.Type(), length, length))
	}
	return request
}

func roofmlBatch(decodes, context, chunk, before int) []*sim.Request {
	var batch []*sim.Request
	for i := 0; i < decodes; i++ {
		batch = append(batch, roofmlRequest(int64(context+i), 1, context, decodes+100))
	}
	if chunk > 0 {
		batch = append(batch, roofmlRequest(int64(before), chunk, before+chunk, 10))
	}
	return batch
}

func TestRoofmlStepTimesArePositiveAlsoOfAnEmptyBatch(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model := made()
		for _, batch := range [][]*sim.Request{nil, {}, {nil}, roofmlBatch(1, 1, 0, 0), roofmlBatch(0, 0, 1, 0), roofmlBatch(127, 700, 512, 0)} {
			if us := model.StepTime(batch); us < 1 {
				t.Errorf("%d requests take %d µs", len(batch), us)
			}
		}
		if us := model.StepTime(nil); us != 1 {
			t.Errorf("an empty batch takes %d µs, expected the least", us)
		}
		if us := model.StepTime(roofmlBatch(64, 700, 0, 0)); us < 1000 {
			t.Errorf("64 requests take %d µs", us)
		}
	})
}

func TestRoofmlIsDeterministicAndLeavesRequestsAsTheyWere(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model, batch, before := made(), roofmlBatch(32, 700, 512, 64), roofmlBatch(32, 700, 512, 64)
		first := model.StepTime(batch)
		for i := 0; i < 100; i++ {
			if again := model.StepTime(batch); again != first {
				t.Fatalf("%d µs, then %d", first, again)
			}
			model.QueueingTime(batch[0])
		}
		if !reflect.DeepEqual(batch, before) {
			t.Error("requests were changed")
		}
	})
}

func TestRoofmlMoreTokensAndLongerContextsNeverShortenAStep(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model := made()
		// Up to 256 tokens a fit may find that one captured size reads its weights faster than the one below it.
		for what, of := range map[string]func(int) []*sim.Request{
			"decodes":          func(i int) []*sim.Request { return roofmlBatch(256+i, 500, 0, 0) },
			"context":          func(i int) []*sim.Request { return roofmlBatch(16, 20*i, 0, 0) },
			"prompt":           func(i int) []*sim.Request { return roofmlBatch(8, 500, 256+4*i, 0) },
			"prompt's context": func(i int) []*sim.Request { return roofmlBatch(8, 500, 256, 16*i) },
		} {
			last := int64(0)
			for i := 1; i <= 300; i++ {
				us := model.StepTime(of(i))
				if us < last {
					t.Fatalf("%s: %d µs at %d, %d before", what, us, i, last)
				}
				last = us
			}
		}
	})
}

func TestRoofmlTakesDegenerateRequests(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model := made()
		for _, request := range []*sim.Request{
			nil, {}, roofmlRequest(0, 0, 0, 0), roofmlRequest(0, 0, 10, 10), roofmlRequest(10, 0, 10, 0), roofmlRequest(10, 1, 10, 0),
			roofmlRequest(-5, 1, 10, 10), roofmlRequest(0, -5, 10, 10), roofmlRequest(math.MaxInt64, 1, 10, 10),
			roofmlRequest(0, math.MaxInt32, 10, 10), roofmlRequest(math.MinInt64, math.MinInt32, 0, 1),
		} {
			alone, beside := model.StepTime([]*sim.Request{request}), model.StepTime(append(roofmlBatch(4, 500, 0, 0), request))
			if alone < 1 || beside < model.StepTime(roofmlBatch(4, 500, 0, 0)) {
				t.Errorf("%+v takes %d µs alone, %d beside four", request, alone, beside)
			}
			if model.QueueingTime(request) < 0 {
				t.Errorf("%+v waits %d µs", request, model.QueueingTime(request))
			}
		}
	})
}

func TestRoofmlRemembersTheStepInFlight(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model := made()
		idle := model.QueueingTime(nil)
		step := model.StepTime(roofmlBatch(16, 700, 0, 0))
		busy := model.QueueingTime(nil)
		if busy < idle+step-1 {
			t.Errorf("%d µs when idle, %d beside a step of %d", idle, busy, step)
		}
		if other := made().QueueingTime(nil); other != idle {
			t.Errorf("another instance, which is idle: %d µs, expected %d", other, idle)
		}
		model.StepTime([]*sim.Request{roofmlRequest(18, 1, 10, 10)})
		if after := model.QueueingTime(nil); after != idle {
			t.Errorf("%d µs after the last token of the last request, expected %d", after, idle)
		}
		if model.OutputTokenProcessingTime() < 0 || model.PostDecodeFixedOverhead() < 0 {
			t.Error("a negative time")
		}
	})
}

func TestRoofmlStepOf128RequestsIsComputedWithinAMillisecond(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		model, batch, best := made(), roofmlBatch(127, 700, 512, 0), time.Hour
		for i := 0; i < 20; i++ {
			start := time.Now()
			model.StepTime(batch)
			best = min(best, time.Since(start))
		}
		if best > time.Millisecond {
			t.Errorf("it takes %v", best)
		}
	})
}

func TestRoofmlOneAndSeveralInstancesAtOnce(t *testing.T) {
	roofmlEach(t, func(t *testing.T, made func() sim.LatencyModel) {
		shared, batch := made(), roofmlBatch(32, 700, 512, 64)
		expected := shared.StepTime(batch)
		var wait sync.WaitGroup
		for worker := 0; worker < 8; worker++ {
			own := made()
			wait.Add(1)
			go func() {
				defer wait.Done()
				for i := 0; i < 100; i++ {
					if a, b := own.StepTime(batch), shared.StepTime(batch); a != expected || b != expected {
						t.Errorf("%d and %d µs, expected %d", a, b, expected)
						return
					}
					own.QueueingTime(batch[0])
					shared.QueueingTime(batch[0])
				}
			}()
		}
		wait.Wait()
	})
}

func TestRoofmlAnswersForItsOwnNameAlone(t *testing.T) {
	type asked struct {
		coeffs   sim.LatencyCoeffs
		hardware sim.ModelHardwareConfig
	}
	var seen []asked
	refused := fmt.Errorf("the former factory was asked")
	wrapped := roofmlWrapped(func(coeffs sim.LatencyCoeffs, hardware sim.ModelHardwareConfig) (sim.LatencyModel, error) {
		seen = append(seen, asked{coeffs, hardware})
		return nil, refused
	})
	for _, backend := range []string{"", "trained-physics", "roofline", "Roofml", "roofml "} {
		hardware := roofmlHardware(backend, "any", "any", 1)
		if _, err := wrapped(sim.LatencyCoeffs{}, hardware); err != refused {
			t.Errorf("%q: %v", backend, err)
		}
		if last := seen[len(seen)-1]; !reflect.DeepEqual(last.hardware, hardware) {
			t.Errorf("%q: asked with %+v", backend, last.hardware)
		}
	}
	count := len(seen)
	_, err := wrapped(sim.LatencyCoeffs{}, roofmlHardware("roofml", "nobody's model", "H100", 1))
	if err == nil || !strings.Contains(err.Error(), "no calibration of nobody's model on H100 with TP 1") || len(seen) != count {
		t.Errorf("a deployment that was not calibrated: %v", err)
	}
	t.Setenv("ROOFML_BACKEND", "roofline")
	if _, err := wrapped(sim.LatencyCoeffs{}, roofmlHardware("roofline", "nobody's model", "H100", 1)); err == refused || err == nil {
		t.Errorf("ROOFML_BACKEND: %v", err)
	}
	if _, err := roofmlWrapped(nil)(sim.LatencyCoeffs{}, roofmlHardware("trained-physics", "any", "any", 1)); err == nil {
		t.Error("no former factory: no error")
	}
}
