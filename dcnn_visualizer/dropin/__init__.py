"""Other tools' interfaces over this library, so that a program changes one import and keeps the rest."""
