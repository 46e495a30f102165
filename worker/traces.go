package worker

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/zerofleet/zerofleet/telemetry"
	"github.com/zerofleet/zerofleet/train"
)

// maxTraceBytes bounds a worker's file of traces: it begins again when it has grown so long.
const maxTraceBytes = 8 << 20

// traces is the worker's file of what sampled steps did, logs/worker-<id>.trace.jsonl: a telemetry.StepTrace a line, each
// one write. The same goes to a collector, as the spans of one trace a step.
type traces struct {
	file  *os.File // nil when it cannot be written: training is worth more
	spans trace.Tracer
	log   *slog.Logger
	bytes int64
}

func openTraces(runDir, id string, spans trace.Tracer, log *slog.Logger) *traces {
	t := &traces{spans: spans, log: log}
	f, err := os.OpenFile(filepath.Join(runDir, "logs", "worker-"+id+".trace.jsonl"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		t.gone(err)
		return t
	}
	t.file = f
	if err := t.resume(); err != nil {
		t.fail(err)
	}
	return t
}

// resume goes on after what an earlier life wrote; one that was killed in the middle of a line takes the others with it.
func (t *traces) resume() error {
	info, err := t.file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	end := make([]byte, 1)
	if _, err := t.file.ReadAt(end, info.Size()-1); err != nil {
		return err
	}
	if end[0] != '\n' {
		return t.file.Truncate(0)
	}
	t.bytes = info.Size()
	return nil
}

func (t *traces) gone(err error) {
	t.log.Warn("what sampled steps do is not written down any more", "error", err)
	t.file = nil
}

func (t *traces) fail(err error) {
	t.file.Close()
	t.gone(err)
}

// write adds what a step did.
func (t *traces) write(generation uint64, rank int, step int64, spans []train.Span) {
	t.export(generation, rank, step, spans)
	if t.file == nil {
		return
	}
	line := telemetry.StepTrace{Generation: generation, Rank: rank, Step: step, Spans: make([]telemetry.StepSpan, len(spans))}
	for i, s := range spans {
		line.Spans[i] = telemetry.StepSpan{Name: s.Name, Collective: s.Collective, StartNanos: s.Start.UnixNano(), Nanos: int64(s.End.Sub(s.Start))}
	}
	b, err := json.Marshal(line)
	if err == nil && t.bytes > 0 && t.bytes+int64(len(b)) > maxTraceBytes {
		err, t.bytes = t.file.Truncate(0), 0
	}
	if err == nil {
		var n int
		n, err = t.file.Write(append(b, '\n'))
		t.bytes += int64(n)
	}
	if err != nil {
		t.fail(err)
	}
}

// export sends a step as a span, and what it did as spans under it.
func (t *traces) export(generation uint64, rank int, step int64, spans []train.Span) {
	if len(spans) == 0 {
		return
	}
	first, last := spans[0].Start, spans[0].End
	for _, s := range spans {
		if s.Start.Before(first) {
			first = s.Start
		}
		if s.End.After(last) {
			last = s.End
		}
	}
	ctx, whole := t.spans.Start(context.Background(), "step", trace.WithNewRoot(), trace.WithTimestamp(first), trace.WithAttributes(
		attribute.Int64("step", step), attribute.Int("rank", rank), attribute.Int64("generation", int64(generation))))
	for _, s := range spans {
		_, span := t.spans.Start(ctx, s.Name, trace.WithTimestamp(s.Start), trace.WithAttributes(attribute.Bool("collective", s.Collective)))
		span.End(trace.WithTimestamp(s.End))
	}
	whole.End(trace.WithTimestamp(last))
}

func (t *traces) close() error {
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
