package roofml

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// golden is what roofml itself says of made-up batches, and of whole runs that it served.
type golden struct {
	Artifact string `json:"artifact"`
	Batches  []struct {
		Requests [][3]int64 `json:"requests"`
		Us       float64    `json:"us"`
	} `json:"batches"`
	Runs []goldenRun `json:"runs"`
}

func readGolden(t testing.TB) map[string]golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenFolder(), "golden-*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden data: %v", err)
	}
	found := map[string]golden{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var read golden
		if err := json.Unmarshal(raw, &read); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found[read.Artifact] = read
	}
	return found
}

func goldenFolder() string {
	if folder := os.Getenv("ROOFML_GOLDEN"); folder != "" {
		return folder
	}
	return "testdata"
}

func each(t *testing.T, check func(*testing.T, *Model)) {
	t.Helper()
	there, err := Names()
	if err != nil || len(there) == 0 {
		t.Fatalf("no artifacts: %v", err)
	}
	for _, name := range there {
		model, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { check(t, model) })
	}
}

func batchOf(rows [][3]int64) []Request {
	batch := make([]Request, len(rows))
	for i, row := range rows {
		batch[i] = Request{NewTokens: row[0], Context: row[1], PromptTokens: row[2]}
	}
	return batch
}

func timeOf(t testing.TB, model *Model, batch []Request) float64 {
	t.Helper()
	us, err := model.StepTime(batch)
	if err != nil {
		t.Fatal(err)
	}
	return us
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*math.Max(math.Abs(a), math.Abs(b)) }

// mixed is a batch of so many decodes, and a chunk of a prompt after as many tokens where there are any.
func mixed(decodes int, context, chunk, before int64) []Request {
	batch := make([]Request, 0, decodes+1)
	for i := 0; i < decodes; i++ {
		batch = append(batch, Request{1, context + int64(i), context})
	}
	if chunk > 0 {
		batch = append(batch, Request{chunk, before, before + chunk})
	}
	return batch
}

func TestStepTimesAreThoseOfRoofml(t *testing.T) {
	for name, of := range readGolden(t) {
		model, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(of.Batches) == 0 {
			t.Errorf("%s: no golden batches", name)
		}
		for i, batch := range of.Batches {
			if found := timeOf(t, model, batchOf(batch.Requests)); !near(found, batch.Us) {
				t.Errorf("%s: batch %d takes %.12g µs, roofml says %.12g", name, i, found, batch.Us)
			}
		}
	}
}

func TestAStepTakesTimeAndAnEmptyOneNone(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		if us := timeOf(t, model, nil); us != 0 {
			t.Errorf("an empty step takes %g µs", us)
		}
		for _, batch := range [][]Request{mixed(1, 1, 0, 0), mixed(0, 0, 1, 0), mixed(128, 700, 0, 0), mixed(128, 700, 2000, 5000)} {
			if us := timeOf(t, model, batch); !(us > 0) || math.IsInf(us, 0) {
				t.Errorf("%d requests take %g µs", len(batch), us)
			}
		}
	})
}

func TestTheSameBatchTakesTheSameTimeAndStaysAsItWas(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		batch := mixed(64, 700, 512, 128)
		before := append([]Request(nil), batch...)
		first := timeOf(t, model, batch)
		for i := 0; i < 100; i++ {
			if again := timeOf(t, model, batch); again != first {
				t.Fatalf("%g µs, then %g", first, again)
			}
		}
		if !reflect.DeepEqual(batch, before) {
			t.Error("the batch was changed")
		}
	})
}

func TestTheOrderOfRequestsDoesNotMatter(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		batch := mixed(31, 900, 300, 64)
		turned := make([]Request, len(batch))
		for i, request := range batch {
			turned[len(batch)-1-i] = request
		}
		if a, b := timeOf(t, model, batch), timeOf(t, model, turned); !near(a, b) {
			t.Errorf("%g and %g µs", a, b)
		}
	})
}

// level is the model with weights that more tokens never read faster. A fit may find that one captured size does better
// than the one below it; apart from that no step is shorter for more work.
func level(model *Model) *Model {
	made := *model
	for _, weights := range []*table{&made.file.Tables.Weights, &made.file.Tables.ExpertWeights} {
		most, leveled := 0.0, make(table, len(*weights))
		for i, us := range *weights {
			most = max(most, us)
			leveled[i] = most
		}
		*weights = leveled
	}
	return &made
}

func TestMoreTokensAndLongerContextsNeverShortenAStep(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		model = level(model)
		rising := func(what string, count int64, of func(int64) []Request) {
			t.Helper()
			last := 0.0
			for i := int64(1); i <= count; i++ {
				us := timeOf(t, model, of(i))
				if us < last*(1-1e-12) {
					t.Fatalf("%s: %g µs at %d, %g before", what, us, i, last)
				}
				last = us
			}
		}
		rising("decodes", 512, func(i int64) []Request { return mixed(int(i), 500, 0, 0) })
		rising("context", 300, func(i int64) []Request { return mixed(16, 50*i, 0, 0) })
		rising("prompt", 3000, func(i int64) []Request { return mixed(8, 500, i, 0) })
		rising("prompt's context", 300, func(i int64) []Request { return mixed(8, 500, 256, 16*i) })
		rising("far past the tables", 40, func(i int64) []Request { return mixed(8, 500, 1000*i, 0) })
	})
}

func TestWhatNoStepComputesIsRefused(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		for _, request := range []Request{{0, 10, 20}, {-1, 10, 20}, {1, -1, 20}, {1, 10, -1}, {math.MaxInt64, 0, 5}, {1, math.MaxInt64, 5}} {
			if us, err := model.StepTime([]Request{{1, 5, 5}, request}); err == nil {
				t.Errorf("%+v takes %g µs", request, us)
			} else if !strings.Contains(err.Error(), "request 1: ") {
				t.Errorf("%v: does not say which request", err)
			}
		}
		if us := timeOf(t, model, []Request{{mostTokens, mostTokens, mostTokens}}); !(us > 0) {
			t.Errorf("the largest request takes %g µs", us)
		}
	})
}

func TestAStepOf128RequestsIsComputedWithinAMillisecond(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		batch := mixed(127, 700, 512, 0)
		best := time.Hour
		for i := 0; i < 20; i++ {
			start := time.Now()
			timeOf(t, model, batch)
			best = min(best, time.Since(start))
		}
		if best > time.Millisecond {
			t.Errorf("it takes %v", best)
		}
	})
}

func TestManyAtOnceSayTheSame(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		batch := mixed(64, 700, 512, 128)
		expected := timeOf(t, model, batch)
		var wait sync.WaitGroup
		for worker := 0; worker < 8; worker++ {
			wait.Add(1)
			go func() {
				defer wait.Done()
				other, err := Load(model.Name())
				if err != nil {
					t.Error(err)
					return
				}
				for i := 0; i < 200; i++ {
					if a, b := timeOf(t, model, batch), timeOf(t, other, batch); a != expected || b != expected {
						t.Errorf("%g and %g µs, expected %g", a, b, expected)
						return
					}
				}
			}()
		}
		wait.Wait()
	})
}

func TestAStepThatLeavesTheFittedRangeSaysSo(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		step := model.NewStep()
		for i := 0; i < 5000; i++ {
			if err := step.Add(Request{1, 500_000, 100}); err != nil {
				t.Fatal(err)
			}
		}
		if said := strings.Join(step.Outside(), "; "); !strings.Contains(said, "batch 5000: the fit has seen") {
			t.Errorf("said: %q", said)
		}
	})
}

func TestRequestsWaitLongerBesideMore(t *testing.T) {
	each(t, func(t *testing.T, model *Model) {
		if a, b := model.QueueingTime(0), model.QueueingTime(100); a < 0 || b < a || model.QueueingTime(-5) != a {
			t.Errorf("%g µs beside none, %g beside 100", a, b)
		}
		if latency := model.TokenLatency(100, 350); latency < 250 {
			t.Errorf("a token after 250 µs is there after %g", latency)
		}
	})
}
