package main

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

type version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

func (a *app) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of relayctl", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := built()
			return a.emit(v, func() { a.say("relayctl %s (%s, %s)", v.Version, orDash(v.Commit), v.Go) })
		},
	}
}

// built reads what the Go tool wrote into the program.
func built() version {
	v := version{Version: "devel", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			v.Commit += "+"
		}
	}
	return v
}
