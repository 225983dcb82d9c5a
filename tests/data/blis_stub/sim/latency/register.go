// Package latency stands in for BLIS's own backends.
package latency

import (
	"fmt"

	"github.com/inference-sim/inference-sim/sim"
)

func init() { sim.NewLatencyModelFunc = newModel }

func newModel(coeffs sim.LatencyCoeffs, hardware sim.ModelHardwareConfig) (sim.LatencyModel, error) {
	if hardware.Backend != "trained-physics" && hardware.Backend != "" {
		return nil, fmt.Errorf("unknown latency backend %q", hardware.Backend)
	}
	return constant(len(coeffs.BetaCoeffs)), nil
}

type constant int64

func (c constant) StepTime(batch []*sim.Request) int64 { return 1 + int64(c) + int64(len(batch)) }
func (c constant) QueueingTime(*sim.Request) int64     { return int64(c) }
func (c constant) OutputTokenProcessingTime() int64    { return 0 }
func (c constant) PostDecodeFixedOverhead() int64      { return 0 }
