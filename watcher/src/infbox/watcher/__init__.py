"""The watcher: two processes, one that follows trees and one that packs and warms."""
