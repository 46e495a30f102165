// Package telemetry sets up what a process tells of itself: a log, and OpenTelemetry traces when a collector is named.
// Packages below take a *slog.Logger and a trace.Tracer and know nothing of exporters.
package telemetry

import (
	"io"
	"log/slog"
)

// Logger writes a line per record to w, from level on. Times are UTC.
func Logger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				a.Value = slog.TimeValue(a.Value.Time().UTC())
			}
			return a
		},
	}))
}
