// Package sim stands in for BLIS's own: what its latency interface is, as far as a latency model is concerned.
package sim

// Request is what a latency model sees of a request.
type Request struct {
	ID            string
	ProgressIndex int64
	NumNewTokens  int
	InputTokens   []int
	OutputTokens  []int
	Deadline      int64
}

// LatencyModel says how long things take, in µs.
type LatencyModel interface {
	StepTime(batch []*Request) int64
	QueueingTime(req *Request) int64
	OutputTokenProcessingTime() int64
	PostDecodeFixedOverhead() int64
}

// LatencyCoeffs are a backend's coefficients.
type LatencyCoeffs struct {
	AlphaCoeffs []float64
	BetaCoeffs  []float64
}

// ModelHardwareConfig says what is served on what.
type ModelHardwareConfig struct {
	Model   string
	GPU     string
	TP      int
	Backend string
}

// NewLatencyModelFunc makes the model of a configuration; package latency sets it.
var NewLatencyModelFunc func(LatencyCoeffs, ModelHardwareConfig) (LatencyModel, error)
