package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zerofleet/zerofleet/job"
)

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "print the JSON schema of a job file",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := job.Schema()
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s", b)
			return nil
		},
	}
}
