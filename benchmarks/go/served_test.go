package latency

import (
	"container/heap"
	"encoding/json"
	"os"
	"testing"

	"github.com/inference-sim/inference-sim/sim"
)

// load is a run to serve: arrivals in whole µs, tokens, and how much of each prompt the cache holds.
type load struct {
	Model, Gpu         string
	Tp, Seats, Budget  int
	Arrival            []int64
	Prompt, Output     []int
	Cached             []int64
	TtftUs, E2eUs      []int64 // filled in
	MostBlocks, Blocks int64   // of the KV cache: held at most, and there
}

type entry struct {
	at int64
	r  int
}

type queue []entry

func (q queue) Len() int           { return len(q) }
func (q queue) Less(a, b int) bool { return q[a].at < q[b].at || q[a].at == q[b].at && q[a].r < q[b].r }
func (q queue) Swap(a, b int)      { q[a], q[b] = q[b], q[a] }
func (q *queue) Push(x any)        { *q = append(*q, x.(entry)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// serve is BLIS's loop as its description has it (docs/blis.md), without preemptions: a request is in the queue after
// its QueueingTime, a step begins when the last one has ended, what runs is served before what waits, first come, first
// served, within seats and token budget.
func serve(model sim.LatencyModel, l *load) {
	n := len(l.Arrival)
	requests := make([]*sim.Request, n)
	for i := range requests {
		requests[i] = &sim.Request{ProgressIndex: l.Cached[i], InputTokens: make([]int, l.Prompt[i]), OutputTokens: make([]int, l.Output[i])}
	}
	l.TtftUs, l.E2eUs = make([]int64, n), make([]int64, n)
	first := make([]int64, n)
	var coming queue
	var waiting, running []int
	now, arrived, ended := l.Arrival[0], 0, 0
	for ended < n {
		for arrived < n && l.Arrival[arrived] <= now {
			at := l.Arrival[arrived] + model.QueueingTime(requests[arrived])
			heap.Push(&coming, entry{at, arrived})
			arrived++
		}
		for len(coming) > 0 && coming[0].at <= now {
			waiting = append(waiting, heap.Pop(&coming).(entry).r)
		}
		if len(waiting)+len(running) == 0 {
			switch {
			case len(coming) > 0 && (arrived == n || coming[0].at <= l.Arrival[arrived]):
				now = coming[0].at
			default:
				now = l.Arrival[arrived]
			}
			continue
		}
		budget, batch, held := l.Budget, []*sim.Request{}, int64(0)
		in := running[:0:0]
		for _, r := range running {
			request := requests[r]
			request.NumNewTokens = 1
			if left := l.Prompt[r] - int(request.ProgressIndex); left > 0 {
				request.NumNewTokens = min(left, budget)
			}
			budget -= request.NumNewTokens
			in = append(in, r)
		}
		for len(waiting) > 0 && len(in) < l.Seats && budget > 0 {
			r := waiting[0]
			waiting = waiting[1:]
			requests[r].NumNewTokens = min(l.Prompt[r]-int(requests[r].ProgressIndex), budget)
			budget -= requests[r].NumNewTokens
			in = append(in, r)
		}
		running = in
		for _, r := range running {
			batch = append(batch, requests[r])
		}
		now += model.StepTime(batch)
		left := running[:0:0]
		for _, r := range running {
			request := requests[r]
			request.ProgressIndex += int64(request.NumNewTokens)
			held += (request.ProgressIndex + 15) / 16
			made := int(request.ProgressIndex) - l.Prompt[r] + 1
			if made == 1 {
				first[r] = now
				l.TtftUs[r] = now - l.Arrival[r] + model.OutputTokenProcessingTime()
			}
			if made >= l.Output[r] {
				l.E2eUs[r] = l.TtftUs[r] + now - first[r] + int64(l.Output[r]-1)*model.OutputTokenProcessingTime() + model.PostDecodeFixedOverhead()
				ended++
				continue
			}
			left = append(left, r)
		}
		running = left
		l.MostBlocks = max(l.MostBlocks, held)
	}
}

func TestServe(t *testing.T) {
	place := os.Getenv("ROOFML_LOAD")
	raw, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	var l load
	if err := json.Unmarshal(raw, &l); err != nil {
		t.Fatal(err)
	}
	var model sim.LatencyModel
	if os.Getenv("ROOFML_TRAINED_PHYSICS") != "" {
		model, err = newTrainedPhysics()
	} else {
		model, err = sim.NewLatencyModelFunc(sim.LatencyCoeffs{}, roofmlHardware("roofml", l.Model, l.Gpu, l.Tp))
	}
	if err != nil {
		t.Fatal(err)
	}
	serve(model, &l)
	if raw, err = json.Marshal(l); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(place, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}
