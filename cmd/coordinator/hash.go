package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/coordinator"
)

func hashCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "hash RUN|CHECKPOINT",
		Short: "the hash that two runs of one job share, and its step",
		Long: "Print the SHA-256 of the weights, moments and counters of the newest committed checkpoint, and its step.\n" +
			"It does not depend on how many workers wrote it, nor on how they shared the state.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			h, step, err := coordinator.Hash(c.Context(), given[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s  step %d\n", h, step)
			return nil
		},
	}
}
