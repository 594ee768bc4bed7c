"""Shows what a convolutional network has learned: DeconvNet, SaliNet, DeSaliNet and occlusion saliency."""
