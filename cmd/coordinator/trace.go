package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func traceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace RUN",
		Short: "what a run's newest sampled steps did, for Perfetto",
		Long: "Write what the newest sampled steps did on every worker, in the trace event format: open it at https://ui.perfetto.dev or\n" +
			"in chrome://tracing. Steps 2, 4, 8, 16 ... and every 50th are sampled.",
		Args: args(cobra.ExactArgs(1)),
	}
	out := c.Flags().StringP("output", "o", "", "file to write; standard output without")
	c.RunE = func(c *cobra.Command, given []string) error {
		var b bytes.Buffer
		if err := coordinator.Trace(&b, given[0]); err != nil {
			return err
		}
		if *out == "" {
			_, err := b.WriteTo(c.OutOrStdout())
			return err
		}
		if err := os.WriteFile(*out, b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write trace: %w", err)
		}
		return nil
	}
	return c
}
