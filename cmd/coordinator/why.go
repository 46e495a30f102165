package main

import (
	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func whyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "why RUN",
		Short: "why a run is stuck, slow, suspended or failed",
		Long: "Say for which rank others wait, at which operation of which tensor and since when; where the time of a step goes, and who\n" +
			"holds the others up; and what has gone wrong before.",
		Args: args(cobra.ExactArgs(1)),
	}
	asJSON := outputFlag(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		inJSON, err := asJSON()
		if err != nil {
			return err
		}
		x, err := coordinator.Why(c.Context(), given[0])
		if err != nil {
			return err
		}
		if inJSON {
			return coordinator.WriteWhyJSON(c.OutOrStdout(), x)
		}
		return coordinator.WriteWhy(c.OutOrStdout(), x)
	}
	return c
}
