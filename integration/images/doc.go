// Package images makes the container images of the examples and tests on the spot, without an image registry.
//
//   - meshswarm-example/nginx:1 and meshswarm-example/redis:1 come from Debian packages: "apt-get download" and
//     "dpkg-deb -x" (neither needs root), then only the program, the libraries it needs and its configuration are
//     kept (debian.go).
//   - meshswarm-example/web:1 is examples/web and meshswarm-example/probe:1 is integration/probe, built as static programs.
//
// What was made is kept as a tar file in a build folder and loaded into an engine through its API ("docker import"). An
// image that the engine has already, made by the same recipe from the same files, is left alone.
//
// Tests call Ensure; people and scripts run the command in load. The package needs a Debian-like machine with apt lists
// ("apt-get update" once); it says so when they are missing. Nothing runs concurrently.
package images
