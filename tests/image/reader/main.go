// Prints a Compose project as JSON, read by Compose's own library as `docker compose config` reads it: variables from
// the environment and .env, profiles from COMPOSE_PROFILES, each file over the one before. Built by
// tests/image/test_compose_spec.py.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	project, err := read(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write(project)
}

func read(files []string) ([]byte, error) {
	options, err := cli.NewProjectOptions(
		files, cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv, cli.WithDefaultProfiles(),
	)
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}
