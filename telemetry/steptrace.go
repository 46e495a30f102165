package telemetry

// StepTrace is a line of a worker's logs/worker-<id>.trace.jsonl: what a sampled step did, and when.
type StepTrace struct {
	Generation uint64     `json:"generation"`
	Rank       int        `json:"rank"`
	Step       int64      `json:"step"`
	Spans      []StepSpan `json:"spans"`
}

// StepSpan is one thing that a step did. Those that are no collectives do not overlap, unless one is within the other;
// collectives are in flight beside them, and beside each other.
type StepSpan struct {
	Name       string `json:"name"`
	Collective bool   `json:"collective,omitempty"`
	StartNanos int64  `json:"start"` // since 1970, by the worker's clock
	Nanos      int64  `json:"nanos"`
}
