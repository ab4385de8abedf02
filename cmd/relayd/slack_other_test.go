//go:build !linux

package main

const slackVerb = "tell-slack"

func tellSlack() {}
