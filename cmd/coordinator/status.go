package main

import (
	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status RUN",
		Short: "what a run is doing, or how it ended",
		Args:  args(cobra.ExactArgs(1)),
	}
	asJSON := outputFlag(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		s, err := coordinator.ReadStatus(c.Context(), given[0])
		if err != nil {
			return err
		}
		if inJSON {
			return coordinator.WriteStatusJSON(c.OutOrStdout(), s)
		}
		return coordinator.WriteStatus(c.OutOrStdout(), s)
	}
	return c
}
