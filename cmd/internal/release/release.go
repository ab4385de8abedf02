// Package release knows which version of the relay was built.
package release

import (
	"runtime/debug"
	"strings"
)

// Next is the release that this source leads to; deploy/CHANGELOG.md describes it
// under "Unreleased" until it is out.
const Next = "0.1.0"

// unset stands for a build that nobody gave a version.
const unset = "unset"

// stamp is set by the builder of packages:
// -ldflags '-X relay/cmd/internal/release.stamp=1.2.3'.
var stamp = unset

// Version is the semantic version of this program: the one that its builder gave,
// or the tag that the go tool saw, else Next as a pre-release with the commit.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return version(stamp, info)
}

func version(stamp string, info *debug.BuildInfo) string {
	if stamp != unset && stamp != "" {
		return strings.TrimPrefix(stamp, "v")
	}
	tag := strings.TrimPrefix(info.Main.Version, "v")
	if tag != "" && tag != "(devel)" && !strings.HasPrefix(tag, "0.0.0-") {
		return tag
	}
	text := Next + "-dev"
	if commit := Commit(info); commit != "" {
		text += "+" + commit
	}
	return text
}

// Commit is the revision that was built, with ".dirty" where files had changed;
// empty where the go tool did not record it.
func Commit(info *debug.BuildInfo) (commit string) {
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ".dirty"
		}
	}
	if commit == "" {
		return ""
	}
	return commit + dirty
}
