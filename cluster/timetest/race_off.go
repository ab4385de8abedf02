//go:build !race

package timetest

// RaceDetector reports whether this build has the race detector, which makes it five to ten times slower.
const RaceDetector = false
