package telemetry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Tracing is where a process's spans go.
type Tracing struct {
	trace.TracerProvider
	shutdown func(context.Context) error
}

// NewTracing sends the spans of a service to the collector at endpoint over gRPC; with no endpoint they go nowhere and
// cost nothing. endpoint is a URL, http:// for a plain connection and https:// for TLS, or host:port, which is TLS unless
// the host is this one. It does not wait for the collector: spans that cannot be delivered are dropped. Close flushes.
func NewTracing(ctx context.Context, service, endpoint string) (*Tracing, error) {
	if endpoint == "" {
		return &Tracing{noop.NewTracerProvider(), func(context.Context) error { return nil }}, nil
	}
	var options []otlptracegrpc.Option
	if strings.Contains(endpoint, "://") {
		options = append(options, otlptracegrpc.WithEndpointURL(endpoint))
	} else {
		host, _, err := net.SplitHostPort(endpoint)
		if err != nil {
			return nil, fmt.Errorf("trace to %q: want host:port or a URL: %w", endpoint, err)
		}
		options = append(options, otlptracegrpc.WithEndpoint(endpoint))
		if isLoopback(host) {
			options = append(options, otlptracegrpc.WithInsecure())
		}
	}
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("trace to %q: %w", endpoint, err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service))),
	)
	return &Tracing{provider, provider.Shutdown}, nil
}

// Close delivers the spans that are left, until ctx ends.
func (t *Tracing) Close(ctx context.Context) error {
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("deliver traces: %w", err)
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
