package latency

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/inference-sim/inference-sim/sim"
)

func benchmarked(b *testing.B) (trained, ours sim.LatencyModel) {
	b.Helper()
	trained, err := newTrainedPhysics()
	if err != nil {
		b.Fatal(err)
	}
	var tp int
	if _, err := fmt.Sscan(os.Getenv("ROOFML_TP"), &tp); err != nil {
		b.Fatal(err)
	}
	hardware := roofmlHardware("roofml", os.Getenv("ROOFML_MODEL"), os.Getenv("ROOFML_GPU"), tp)
	ours, err = sim.NewLatencyModelFunc(sim.LatencyCoeffs{}, hardware)
	if err != nil {
		b.Fatal(err)
	}
	return trained, ours
}

// Batches of 128 requests: all decoding, and 127 beside a chunk of a prompt.
func batches() map[string][]*sim.Request {
	return map[string][]*sim.Request{"decodes": roofmlBatch(128, 700, 0, 0), "mixed": roofmlBatch(127, 700, 512, 64)}
}

// processorTime is what this process has used, in ns: what else runs on the machine does not count.
func processorTime(b *testing.B) int64 {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return used.Utime.Nano() + used.Stime.Nano()
}

func BenchmarkStepTime(b *testing.B) {
	trained, ours := benchmarked(b)
	for name, model := range map[string]sim.LatencyModel{"trained-physics": trained, "roofml": ours} {
		for kind, batch := range batches() {
			b.Run(name+"/"+kind, func(b *testing.B) {
				var us int64
				before := processorTime(b)
				for i := 0; i < b.N; i++ {
					us = model.StepTime(batch)
				}
				b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu_ns")
				b.ReportMetric(float64(us), "step_us")
			})
		}
	}
}
