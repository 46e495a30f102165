package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/worker"
)

func runCommand() *cobra.Command {
	o := worker.Options{}
	c := &cobra.Command{
		Use:   "run",
		Short: "join a job and train until it ends",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("worker", o.ID)
			return worker.Run(c.Context(), o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.ID, "id", "", "this worker's id in the job")
	f.StringVar(&o.Control, "control", "", "the run folder's control.json")
	f.StringVar(&o.Advertise, "advertise", "127.0.0.1", "the address that other workers reach this one at")
	for _, name := range []string{"id", "control"} {
		if err := c.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return c
}
