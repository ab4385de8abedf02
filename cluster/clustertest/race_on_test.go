//go:build race

package clustertest_test

const raceDetector = true
