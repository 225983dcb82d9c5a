package latency

import (
	"encoding/json"
	"fmt"
	"math"
	"os"

	"github.com/inference-sim/inference-sim/sim"
)

// trainedPhysics is BLIS's trained-physics form, written from its description for a benchmark (docs/blis.md): dense models
// and uniform mixtures without shared experts, under tensor parallelism alone, with 10 or 11 betas. ROOFML_TRAINED_PHYSICS
// names a JSON file with its numbers.
type trainedPhysics struct {
	Layers, Hidden, Heads, KvHeads float64
	Intermediate, Experts, TopK    float64
	WeightBytes, DtypeBytes, Tp    float64
	FlopsPerUs, BytesPerUs         float64
	Alphas                         [3]float64
	Betas                          [11]float64
}

func newTrainedPhysics() (sim.LatencyModel, error) {
	raw, err := os.ReadFile(os.Getenv("ROOFML_TRAINED_PHYSICS"))
	if err != nil {
		return nil, fmt.Errorf("trained-physics: %w", err)
	}
	var made trainedPhysics
	err = json.Unmarshal(raw, &made)
	return &made, err
}

func (m *trainedPhysics) StepTime(batch []*sim.Request) int64 {
	if len(batch) == 0 {
		return 1
	}
	head := math.Floor(m.Hidden / m.Heads)
	var P, D, S, A float64
	for _, request := range batch {
		if input := int64(len(request.InputTokens)); request.ProgressIndex < input {
			tokens := float64(request.NumNewTokens)
			P += tokens
			A += 4 * (m.Heads / m.Tp) * tokens * (float64(input) + tokens/2) * head
		} else if len(request.OutputTokens) > 0 {
			D++
			S += float64(request.ProgressIndex)
		}
	}
	kv := m.KvHeads * head
	moe, dense := 0.0, m.Layers
	if m.Experts > 1 {
		moe, dense = m.Layers, 0
	}
	ffn := func(tokens float64) float64 {
		return moe*(tokens*max(1, m.TopK)/m.Tp)*6*m.Hidden*m.Intermediate + dense*tokens*6*m.Hidden*m.Intermediate/m.Tp
	}
	project := 2 * m.Layers * m.Hidden * (2*m.Hidden + 2*kv) / m.Tp
	prefill := (project*P + m.Layers*A + ffn(P)) / m.FlopsPerUs
	prefillKv := 2 * m.Layers * (kv / m.Tp) * P * 2 / m.BytesPerUs
	decode := (project*D + m.Layers*4*(m.Heads/m.Tp)*S*head + ffn(D)) / m.FlopsPerUs
	decodeKv := 2 * m.Layers * (kv / m.Tp) * 2 * (S + D) / m.BytesPerUs
	weights := (m.Layers*m.Hidden*(2*m.Hidden+2*kv)/m.Tp + moe*(m.Experts/m.Tp)*3*m.Hidden*m.Intermediate + dense*3*m.Hidden*m.Intermediate/m.Tp) * m.WeightBytes / m.BytesPerUs
	reduce := (m.Layers + dense + moe) * (P + D) * m.Hidden * m.DtypeBytes * 2 * (m.Tp - 1) / m.Tp / m.BytesPerUs
	b := &m.Betas
	time := b[0]*prefill + b[8]*prefillKv + (b[1]*decode + b[9]*decodeKv) + b[2]*weights + b[3]*reduce
	time += b[4]*m.Layers + b[5]*float64(len(batch)) + b[6]
	if !(time < math.MaxInt64) {
		return math.MaxInt64
	}
	return max(1, int64(time))
}

func (m *trainedPhysics) QueueingTime(*sim.Request) int64  { return int64(m.Alphas[0]) }
func (m *trainedPhysics) OutputTokenProcessingTime() int64 { return int64(m.Alphas[2]) }
func (m *trainedPhysics) PostDecodeFixedOverhead() int64   { return int64(m.Alphas[1]) }
